//! What the mark says.

use labrador_ldpc::LDPCCode;

/// Bits in the pictures.
pub const CODE_BITS: usize = 128;
const CODE: LDPCCode = LDPCCode::TC128;
/// Soft decoding either gets there soon or not at all.
const ITERATIONS: usize = 100;

/// The kind of payload: soragen's, first form.
const SCHEME: u8 = 0x51;

/// Which generation a video comes from: 40 bits, written as ten hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GenerationId(u64);

impl GenerationId {
    /// The lower 40 bits of `id`.
    pub fn new(id: u64) -> Self {
        Self(id & ((1 << 40) - 1))
    }

    /// As a number below 2⁴⁰.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for GenerationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

/// CRC-16/IBM-3740 ("CCITT-FALSE").
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

/// Scheme, id, check: the 64 bits as a codeword.
pub fn encode(id: GenerationId) -> [bool; CODE_BITS] {
    let mut data = [0; 8];
    data[0] = SCHEME;
    data[1..6].copy_from_slice(&id.0.to_be_bytes()[3..]);
    let check = crc(&data[..6]);
    data[6..].copy_from_slice(&check.to_be_bytes());
    let mut code = [0u8; CODE_BITS / 8];
    CODE.copy_encode(&data, &mut code);
    std::array::from_fn(|i| code[i / 8] >> (7 - i % 8) & 1 == 1)
}

/// The id, if the bits hold one. `soft` is positive where a bit is rather 1, the more the surer.
///
/// Noise passes for an id once in 2²⁴ times at most: by the scheme (8 bits) and the check (16), whatever the
/// code makes of it.
pub fn decode(soft: &[f32; CODE_BITS]) -> Option<GenerationId> {
    // The decoder takes the logarithm of how much likelier 0 is than 1; its scale does not matter.
    let llrs = soft.map(|s| -s);
    let mut output = [0; CODE_BITS / 8];
    let mut working = vec![0.0; CODE.decode_ms_working_len()];
    let mut working_u8 = vec![0; CODE.decode_ms_working_u8_len()];
    let (done, _) = CODE.decode_ms(&llrs, &mut output, &mut working, &mut working_u8, ITERATIONS);
    let data = &output[..8];
    if !done || data[0] != SCHEME || crc(&data[..6]).to_be_bytes() != data[6..] {
        return None;
    }
    Some(GenerationId(data[1..6].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_the_standards() {
        assert_eq!(crc(b"123456789"), 0x29b1);
    }

    #[test]
    fn a_tenth_of_the_bits_may_be_wrong() {
        let id = GenerationId::new(0x12_3456_789a);
        let mut soft = encode(id).map(|bit| if bit { 1.0 } else { -1.0 });
        for i in (0..CODE_BITS).step_by(10) {
            soft[i] *= -0.5;
        }
        assert_eq!(decode(&soft), Some(id));
        assert_eq!(id.to_string(), "123456789a");
        assert_eq!(decode(&[0.0; CODE_BITS]), None);
    }
}

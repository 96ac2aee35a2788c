//! The payload of the watermark and its error correction.

use labrador_ldpc::LDPCCode;

/// Length of the codeword in bits.
pub const CODE_BITS: usize = 128;

/// Identifies the payload format: soragen, version 2.
const SCHEME: u8 = 0x52;

/// The ID of the generation that produced a video: 40 bits, displayed as ten hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GenerationId(u64);

impl GenerationId {
    /// An ID from the lower 40 bits of `id`.
    pub fn new(id: u64) -> Self {
        Self(id & ((1 << 40) - 1))
    }

    /// The ID as an integer below 2⁴⁰.
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

/// Encodes 64 bits; the first bit of the codeword is bit 0 of the integer.
fn codeword(data: [u8; 8]) -> u128 {
    let mut code = [0u8; CODE_BITS / 8];
    LDPCCode::TC128.copy_encode(&data, &mut code);
    u128::from_be_bytes(code).reverse_bits()
}

/// Encodes scheme, ID and checksum as a codeword.
pub fn encode(id: GenerationId) -> [bool; CODE_BITS] {
    let mut data = [0; 8];
    data[0] = SCHEME;
    data[1..6].copy_from_slice(&id.0.to_be_bytes()[3..]);
    let check = crc(&data[..6]);
    data[6..].copy_from_slice(&check.to_be_bytes());
    let code = codeword(data);
    std::array::from_fn(|i| code >> i & 1 == 1)
}

/// Cosine similarity of the bits and a codeword that noise reaches less than once in 150 times.
pub const FIT: f32 = 0.725;

/// Decodes the ID, if the bits contain one. A value of `soft` is positive for a probable 1; its magnitude is the confidence.
///
/// The most likely codeword must have the right scheme (8 bits) and checksum (16 bits), so that noise passes once in 2²⁴
/// times. A `min_fit` of [`FIT`] lowers that rate further; it is the cosine similarity of the bits and the codeword.
pub fn decode(soft: &[f32; CODE_BITS], min_fit: f32) -> Option<GenerationId> {
    let word = most_likely(soft);
    if fit(soft, word) < min_fit {
        return None;
    }
    let data = word.reverse_bits().to_be_bytes();
    let data = &data[..8];
    if data[0] != SCHEME || crc(&data[..6]).to_be_bytes() != data[6..] {
        return None;
    }
    Some(GenerationId(data[1..6].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))))
}

/// Cosine similarity of the bits and a codeword.
fn fit(soft: &[f32; CODE_BITS], word: u128) -> f32 {
    let signed = |i: usize| if word >> i & 1 == 1 { soft[i] } else { -soft[i] };
    let squares = soft.iter().map(|s| s * s).sum::<f32>();
    (0..CODE_BITS).map(signed).sum::<f32>() / (squares * CODE_BITS as f32).sqrt().max(f32::MIN_POSITIVE)
}

/// Ordered statistics decoding (Fossorier and Lin, 1995) of order 3. The 64 most reliable independent bits determine a
/// codeword. Of all codewords that differ from these bits in at most three places, the one that fits all bits best wins. For
/// so short a code this is better than iterative decoding.
fn most_likely(soft: &[f32; CODE_BITS]) -> u128 {
    let mut rows: Vec<u128> = (0..64).map(|i| codeword((1u64 << i).to_be_bytes())).collect();
    let mut order: [usize; CODE_BITS] = std::array::from_fn(|i| i);
    order.sort_by(|a, b| soft[*b].abs().total_cmp(&soft[*a].abs()));
    let hard = (0..CODE_BITS).filter(|i| soft[*i] > 0.0).fold(0u128, |hard, i| hard | 1 << i);

    let (mut done, mut word) = (0, 0u128);
    for place in order {
        let Some(pivot) = (done..rows.len()).find(|row| rows[*row] >> place & 1 == 1) else { continue };
        rows.swap(done, pivot);
        let row = rows[done];
        for (i, other) in rows.iter_mut().enumerate() {
            if i != done && *other >> place & 1 == 1 {
                *other ^= row;
            }
        }
        // Later rows do not contain this bit, and it was cleared in earlier ones.
        if (word ^ hard) >> place & 1 == 1 {
            word ^= row;
        }
        done += 1;
    }

    let misfit = |word: u128| {
        let mut wrong = word ^ hard;
        let mut sum = 0.0;
        while wrong != 0 {
            sum += soft[wrong.trailing_zeros() as usize].abs();
            wrong &= wrong - 1;
        }
        sum
    };
    let mut best = (misfit(word), word);
    let mut consider = |word: u128| {
        let misfit = misfit(word);
        if misfit < best.0 {
            best = (misfit, word);
        }
    };
    for (i, one) in rows.iter().enumerate() {
        consider(word ^ one);
        for (j, two) in rows[..i].iter().enumerate() {
            consider(word ^ one ^ two);
            for three in &rows[..j] {
                consider(word ^ one ^ two ^ three);
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_equals_the_published_check_value() {
        assert_eq!(crc(b"123456789"), 0x29b1);
    }

    #[test]
    fn a_payload_with_a_seventh_of_the_bits_wrong_is_decoded() {
        let id = GenerationId::new(0x12_3456_789a);
        let mut soft = encode(id).map(|bit| if bit { 1.0 } else { -1.0 });
        for i in (0..CODE_BITS).step_by(7) {
            soft[i] *= -0.5;
        }
        assert_eq!(decode(&soft, 0.0), Some(id));
        assert_eq!(id.to_string(), "123456789a");
        assert_eq!(decode(&[0.0; CODE_BITS], 0.0), None);
    }

    #[test]
    fn noise_is_not_decoded_to_an_id() {
        use rand_chacha::rand_core::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let soft = std::array::from_fn(|_| rng.next_u32() as i32 as f32);
            assert_eq!(decode(&soft, 0.0), None);
        }
    }

    #[test]
    fn noise_rarely_reaches_the_fit() {
        use rand_chacha::rand_core::SeedableRng;
        use rand_distr::{Distribution, StandardNormal};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        let fits = |_: &usize| {
            let soft = std::array::from_fn(|_| StandardNormal.sample(&mut rng));
            fit(&soft, most_likely(&soft)) >= FIT
        };
        let fitting = (0..3000).filter(fits).count();
        assert!((1..20).contains(&fitting), "{fitting} of 3000");
    }
}

//! What the mark says.

use labrador_ldpc::LDPCCode;

/// Bits in the pictures.
pub const CODE_BITS: usize = 128;

/// The kind of payload: soragen's, second form.
const SCHEME: u8 = 0x52;

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

/// The codeword of 64 bits; its first bit is bit 0 of the number.
fn codeword(data: [u8; 8]) -> u128 {
    let mut code = [0u8; CODE_BITS / 8];
    LDPCCode::TC128.copy_encode(&data, &mut code);
    u128::from_be_bytes(code).reverse_bits()
}

/// Scheme, id, check: the 64 bits as a codeword.
pub fn encode(id: GenerationId) -> [bool; CODE_BITS] {
    let mut data = [0; 8];
    data[0] = SCHEME;
    data[1..6].copy_from_slice(&id.0.to_be_bytes()[3..]);
    let check = crc(&data[..6]);
    data[6..].copy_from_slice(&check.to_be_bytes());
    let code = codeword(data);
    std::array::from_fn(|i| code >> i & 1 == 1)
}

/// The cosine between the bits and a codeword that noise reaches less than once in 150 times.
pub const FIT: f32 = 0.725;

/// The id, if the bits hold one. `soft` is positive where a bit is rather 1, the more the surer.
///
/// Noise passes for an id once in 2²⁴ times: by the scheme (8 bits) and the check (16), which are asked of the likeliest
/// codeword alone; and where that has to fit as well as [`FIT`], as the cosine between it and the bits, more seldom still.
pub fn decode(soft: &[f32; CODE_BITS], least_fit: f32) -> Option<GenerationId> {
    let word = likeliest(soft);
    if fit(soft, word) < least_fit {
        return None;
    }
    let data = word.reverse_bits().to_be_bytes();
    let data = &data[..8];
    if data[0] != SCHEME || crc(&data[..6]).to_be_bytes() != data[6..] {
        return None;
    }
    Some(GenerationId(data[1..6].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))))
}

/// The cosine between the bits and a codeword.
fn fit(soft: &[f32; CODE_BITS], word: u128) -> f32 {
    let signed = |i: usize| if word >> i & 1 == 1 { soft[i] } else { -soft[i] };
    let squares = soft.iter().map(|s| s * s).sum::<f32>();
    (0..CODE_BITS).map(signed).sum::<f32>() / (squares * CODE_BITS as f32).sqrt().max(f32::MIN_POSITIVE)
}

/// Ordered statistics decoding (Fossorier and Lin, 1995) of order 3: a codeword is fixed by the 64 surest bits
/// that do not depend on each other; of those with at most three of them wrong, the one that fits all bits best.
/// It reads a code this short where the iterative decoder cannot.
fn likeliest(soft: &[f32; CODE_BITS]) -> u128 {
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
        // Later rows leave this place alone, and earlier ones were cleared of it.
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
    fn the_check_is_the_standards() {
        assert_eq!(crc(b"123456789"), 0x29b1);
    }

    #[test]
    fn a_seventh_of_the_bits_may_be_wrong() {
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
    fn noise_is_no_id() {
        use rand_chacha::rand_core::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let soft = std::array::from_fn(|_| rng.next_u32() as i32 as f32);
            assert_eq!(decode(&soft, 0.0), None);
        }
    }

    #[test]
    fn noise_seldom_fits() {
        use rand_chacha::rand_core::SeedableRng;
        use rand_distr::{Distribution, StandardNormal};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        let fits = |_: &usize| {
            let soft = std::array::from_fn(|_| StandardNormal.sample(&mut rng));
            fit(&soft, likeliest(&soft)) >= FIT
        };
        let fitting = (0..3000).filter(fits).count();
        assert!((1..20).contains(&fitting), "{fitting} of 3000");
    }
}

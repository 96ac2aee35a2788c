//! The tile of chips that a key defines.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::WatermarkKey;
use super::payload::CODE_BITS;

/// Side of a chip in pixels. Encoders remove smaller chips; larger ones compete with more picture content.
pub const CELL: usize = 6;
/// Side of the tile in chips.
pub const SIDE: usize = 24;
/// Number of chips in the tile.
pub const CHIPS: usize = SIDE * SIDE;
/// Number of synchronisation chips. With fewer, locating the tile fails more often than reading the payload; with more, less.
const SYNC: usize = CHIPS / 6;

/// The role of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Locates the tile.
    Sync,
    /// Carries this bit of the codeword.
    Bit(usize),
}

/// The tile of a key, in row-major order: the role of each chip and its sign, ±1, for a bit of value 1.
pub struct Tile {
    pub roles: Vec<Role>,
    pub signs: Vec<f32>,
}

impl Tile {
    pub fn new(key: &WatermarkKey) -> Self {
        let mut rng = ChaCha8Rng::from_seed(key.bytes(b"tile"));
        let mut roles: Vec<_> = (0..CHIPS)
            .map(|i| i.checked_sub(SYNC).map_or(Role::Sync, |i| Role::Bit(i % CODE_BITS)))
            .collect();
        for i in (1..CHIPS).rev() {
            // The modulo bias of 2⁻²² is negligible.
            roles.swap(i, rng.next_u32() as usize % (i + 1));
        }
        let signs = (0..CHIPS).map(|_| if rng.next_u32() & 1 == 1 { 1.0 } else { -1.0 }).collect();
        Self { roles, signs }
    }
}

/// Horizontal and vertical shift of the tile in a shot, in chips. It differs between shots, so that the mean of many videos
/// does not reveal the tile.
pub fn phase(key: &WatermarkKey, id: u64, shot: u64) -> (usize, usize) {
    let mut purpose = *b"phase\0\0\0................";
    purpose[8..16].copy_from_slice(&id.to_le_bytes());
    purpose[16..].copy_from_slice(&shot.to_le_bytes());
    let bytes = key.bytes(&purpose);
    (usize::from(bytes[0]) % SIDE, usize::from(bytes[1]) % SIDE)
}

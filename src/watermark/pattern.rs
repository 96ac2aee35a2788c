//! The tile of chips that a key and a payload make.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::WatermarkKey;
use super::payload::CODE_BITS;

/// Pixels on a side of a chip. What encoders take away is fine; in larger ones there is more of what pictures have of their own.
pub const CELL: usize = 6;
/// Chips on a side of the tile.
pub const SIDE: usize = 24;
/// Chips in the tile.
pub const CHIPS: usize = SIDE * SIDE;
/// Chips by which the tile is found. With fewer it is found less often than its payload could be read, with more the other way round.
const SYNC: usize = CHIPS / 6;

/// What a chip is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To find the tile.
    Sync,
    /// To carry this bit of the codeword.
    Bit(usize),
}

/// The key's tile, row by row: what each chip is for and its sign, ±1, for a bit that is 1.
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
            // The bias of the remainder is 2⁻²² and does not matter.
            roles.swap(i, rng.next_u32() as usize % (i + 1));
        }
        let signs = (0..CHIPS).map(|_| if rng.next_u32() & 1 == 1 { 1.0 } else { -1.0 }).collect();
        Self { roles, signs }
    }
}

/// By how many chips, across and down, the tile is moved in a shot, so that the mean of many videos does not
/// show it.
pub fn phase(key: &WatermarkKey, id: u64, shot: u64) -> (usize, usize) {
    let mut purpose = *b"phase\0\0\0................";
    purpose[8..16].copy_from_slice(&id.to_le_bytes());
    purpose[16..].copy_from_slice(&shot.to_le_bytes());
    let bytes = key.bytes(&purpose);
    (usize::from(bytes[0]) % SIDE, usize::from(bytes[1]) % SIDE)
}

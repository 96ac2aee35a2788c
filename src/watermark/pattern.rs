//! The tile of chips that a key defines.

use std::f64::consts::TAU;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustfft::num_complex::Complex32;

use super::WatermarkKey;
use super::payload::CODE_BITS;

/// Side of the tile in pixels.
pub const EDGE: usize = 144;
/// Number of pixels in the tile.
pub const AREA: usize = EDGE * EDGE;
/// Time in which the chips of [`Scheme::Rotating`] oscillate once. The mean over one second shows nothing of the watermark.
/// With a shorter period, files become larger.
const PERIOD: f64 = 1.0;

/// How the pattern changes over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Scheme 1, of earlier versions: all frames of a shot have the same pattern.
    Static,
    /// Scheme 2: every chip oscillates, and half of the chips lead the other half by a quarter of the period.
    Rotating,
}

impl Scheme {
    /// The number in reports.
    pub fn number(self) -> u32 {
        match self {
            Self::Static => 1,
            Self::Rotating => 2,
        }
    }

    /// Side of a chip in pixels. Encoders remove smaller chips; larger ones compete with more picture content.
    pub(super) const fn cell(self) -> usize {
        match self {
            Self::Static => 6,
            Self::Rotating => 8,
        }
    }

    /// Side of the tile in chips.
    pub(super) const fn side(self) -> usize {
        EDGE / self.cell()
    }

    /// Relative strength of a chip along its side: the first half, which mirrors the second.
    fn profile(self) -> &'static [f32] {
        match self {
            Self::Static => &[0.43, 0.78, 0.97],
            Self::Rotating => &ROUNDED,
        }
    }

    /// Relative strength of a chip at a pixel of the tile.
    pub(super) fn weight(self, pixel: usize) -> f32 {
        let (cell, profile) = (self.cell(), self.profile());
        let along = |i: usize| profile[(i % cell).min(cell - 1 - i % cell)];
        along(pixel % EDGE) * along(pixel / EDGE)
    }
}

/// sin(πx) to the power of 0.8 at the pixels of half a cell of eight: rounded, so that no blocks are visible.
const ROUNDED: [f32; 4] = [0.2704, 0.6249, 0.8627, 0.9846];

/// The role of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Locates the tile.
    Sync,
    /// Carries this bit of the codeword.
    Bit(usize),
}

/// The tile of a key, in row-major order: the role and the value of each chip, for a bit of value 1.
///
/// A chip `A − iB` of ±1 and ±i has the strength `A cos θ + B sin θ` at the angle θ: the real part of the chip times `exp(iθ)`.
/// The chips of [`Scheme::Static`] are real.
pub struct Tile {
    pub roles: Vec<Role>,
    pub chips: Vec<Complex32>,
}

impl Tile {
    pub fn new(key: &WatermarkKey, scheme: Scheme) -> Self {
        let purpose: &[u8] = match scheme {
            Scheme::Static => b"tile",
            Scheme::Rotating => b"tile 2",
        };
        let mut rng = ChaCha8Rng::from_seed(key.bytes(purpose));
        let count = scheme.side() * scheme.side();
        // With fewer synchronisation chips, locating the tile fails more often than reading the payload; with more, less.
        let sync = count / 6;
        let mut roles: Vec<_> = (0..count)
            .map(|i| i.checked_sub(sync).map_or(Role::Sync, |i| Role::Bit(i % CODE_BITS)))
            .collect();
        for i in (1..count).rev() {
            // The modulo bias of 2⁻²² is negligible.
            roles.swap(i, rng.next_u32() as usize % (i + 1));
        }
        let mut sign = || if rng.next_u32() & 1 == 1 { 1.0 } else { -1.0 };
        let chip = |_| match scheme {
            Scheme::Static => Complex32::new(sign(), 0.0),
            Scheme::Rotating => Complex32::new(sign(), sign()),
        };
        let chips = (0..count).map(chip).collect();
        Self { roles, chips }
    }
}

/// `exp(iθ)` for the angle θ of the pattern at `time` from the start of the video.
pub fn turn(time: Duration) -> Complex32 {
    let (sin, cos) = (time.as_secs_f64() % PERIOD / PERIOD * TAU).sin_cos();
    Complex32::new(cos as f32, sin as f32)
}

/// Horizontal and vertical shift of the tile in a shot, in chips. It differs between shots, so that the mean of many videos
/// does not reveal the tile.
pub fn phase(key: &WatermarkKey, id: u64, shot: u64) -> (usize, usize) {
    const SIDE: usize = Scheme::Rotating.side();
    let mut purpose = *b"phase\0\0\0................";
    purpose[8..16].copy_from_slice(&id.to_le_bytes());
    purpose[16..].copy_from_slice(&shot.to_le_bytes());
    let bytes = key.bytes(&purpose);
    (usize::from(bytes[0]) % SIDE, usize::from(bytes[1]) % SIDE)
}

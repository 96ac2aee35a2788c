//! The instructions that multiply 8-bit values.

use super::super::Arch;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::portable;
use super::rows::Word;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, vnni256};

/// The instructions of the inner loop. [`Form::all`] checks that the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A plain loop, which the compiler vectorises.
    Portable,
    /// Products of 16-bit pairs: 8-bit pairs with 16-bit sums would saturate.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// The loop of [`Form::AvxVnni`] with the AVX-512 encoding, for tests on a CPU without AVX-VNNI.
    #[cfg(all(test, target_arch = "x86_64"))]
    Avx512Vnni256,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Four products per lane, `sdot`.
    #[cfg(target_arch = "aarch64")]
    Dot,
    /// Products of 2×8 and 8×2 values, `smmla`.
    #[cfg(target_arch = "aarch64")]
    Matrix,
}

/// The layout that a form reads, and the number of sums that fit in the registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) rows: usize,
    /// Vectors of columns per panel, at most.
    pub(super) vectors: usize,
    /// Columns per vector.
    pub(super) lanes: usize,
    /// Inputs per step and lane.
    pub(super) inputs: usize,
    /// Bytes per quantized input of the rows.
    pub(super) bytes: usize,
    /// Added to the quantized inputs: 128 if they are unsigned.
    pub(super) offset: i32,
}

/// The largest number of columns of a panel.
pub(super) const MAX_WIDTH: usize = 48;
/// The largest number of sums of a tile.
pub(super) const MAX_SUMS: usize = 8 * MAX_WIDTH;

impl Form {
    /// All forms that this CPU supports, for `arch` and narrower, the fastest last.
    pub(super) fn all(arch: Arch) -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let wide = matches!(arch, Arch::Avx512(_));
            if wide || matches!(arch, Arch::Avx2(_)) {
                all.push(Self::Avx2);
                #[cfg(test)]
                if wide && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
                    all.push(Self::Avx512Vnni256);
                }
                all.extend(is_x86_feature_detected!("avxvnni").then_some(Self::AvxVnni));
                all.extend((wide && is_x86_feature_detected!("avx512vnni")).then_some(Self::Avx512Vnni));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if let Arch::Neon(_) = arch {
            use std::arch::is_aarch64_feature_detected;

            all.extend(is_aarch64_feature_detected!("dotprod").then_some(Self::Dot));
            all.extend(is_aarch64_feature_detected!("i8mm").then_some(Self::Matrix));
        }
        all
    }

    pub(super) fn fastest(arch: Arch) -> Self {
        Self::all(arch).pop().unwrap_or(Self::Portable)
    }

    pub(super) fn tile(self) -> Tile {
        match self {
            Self::Portable => portable::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => vnni256::TILE,
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Avx512Vnni256 => vnni256::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => avx512::TILE,
            #[cfg(target_arch = "aarch64")]
            Self::Dot => neon::DOT,
            #[cfg(target_arch = "aarch64")]
            Self::Matrix => neon::MATRIX,
        }
    }

    /// Writes the products of a tile of rows and a panel of `vectors` vectors to `sums`, row by row.
    #[inline(always)]
    pub(super) fn multiply<'a>(
        self,
        row: impl Fn(usize) -> &'a [Word],
        weights: &[i8],
        vectors: usize,
        sums: &mut [i32],
    ) {
        // One version per number of vectors, so that the sums are in registers.
        macro_rules! with {
            ($($function:ident)::+) => {{
                let rows = &std::array::from_fn(row);
                // SAFETY: `all` checked that this CPU has the instructions.
                unsafe {
                    match vectors {
                        3 => $($function)::+::<3>(rows, weights, sums),
                        2 => $($function)::+::<2>(rows, weights, sums),
                        _ => $($function)::+::<1>(rows, weights, sums),
                    }
                }
            }};
        }
        match self {
            Self::Portable => portable::multiply(row(0), weights, vectors, sums),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => with!(avx2::multiply),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => with!(vnni256::multiply_avx),
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Avx512Vnni256 => with!(vnni256::multiply_avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => with!(avx512::multiply),
            #[cfg(target_arch = "aarch64")]
            Self::Dot => with!(neon::multiply_dot),
            #[cfg(target_arch = "aarch64")]
            Self::Matrix => with!(neon::multiply_matrix),
        }
    }
}

//! Products of bf16, two at a time: a pair has the place of one number of f32, the first in its low half.

use pulp::Simd;

use super::Arch;
use super::panels::Sums;

/// Whether this CPU multiplies pairs faster than numbers of f32: AMD's has an instruction that takes no longer
/// (<https://uops.info/html-instr/VDPBF16PS_ZMM_ZMM_ZMM.html>); with Intel's it came to 0.6 of the speed.
pub(super) fn are_fast(arch: Arch) -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(arch, Arch::Avx512(_)) && is_x86_feature_detected!("avx512bf16") && is_amd();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

/// The nearest bf16, in the high half; the even one in the middle between two.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    bits + 0x7fff + (bits >> 16 & 1)
}

/// Both in the place of one.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
}

/// Pairs of all of `row`, an even number, to its first half.
#[inline(always)]
pub(super) fn pair_all<S: Simd>(_: S, row: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES == 16 && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: this CPU has what is asked for.
        return unsafe { pair_all_bf16(row) };
    }
    for i in 0..row.len() / 2 {
        row[i] = pair(row[2 * i], row[2 * i + 1]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pair_all_bf16(row: &mut [f32]) {
    use std::arch::x86_64::*;

    for first in (0..row.len()).step_by(32) {
        let from = &row[first..(first + 32).min(row.len())];
        let (low, high) = from.split_at(from.len().min(16));
        let there = |part: &[f32]| ((1u32 << part.len()) - 1) as u16;
        // SAFETY: no more numbers are read than there are, and half as many written before them.
        unsafe {
            let (a, b) = (
                _mm512_maskz_loadu_ps(there(low), low.as_ptr()),
                _mm512_maskz_loadu_ps(there(high), high.as_ptr()),
            );
            let count = from.len() / 2;
            let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
            let to = &mut row[first / 2..first / 2 + count];
            _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), ((1u32 << count) - 1) as u16, pairs);
        }
    }
}

/// As [`accumulate`](super::panels::accumulate), of pairs in the place of numbers: products of the first and of the second
/// of each are added.
#[inline(always)]
pub(super) fn accumulate_pairs<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: &mut Sums<S, ROWS, VECTORS>,
    rows: &[&[f32]; ROWS],
    length: usize,
    weights: &[S::f32s],
) {
    let weights = &weights[..length * VECTORS];
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES == 16 && is_x86_feature_detected!("avx512bf16") {
        // Vectors of `S` are sixteen numbers, but need not be aligned.
        let sums = std::ptr::from_mut(sums).cast::<[[[f32; 16]; VECTORS]; ROWS]>();
        let weights = weights.as_ptr().cast::<[f32; 16]>();
        // SAFETY: this CPU has what is asked for, and the same numbers are read as numbers.
        return unsafe {
            accumulate_bf16(&mut *sums, rows, length, std::slice::from_raw_parts(weights, length * VECTORS))
        };
    }
    let first = |x: S::f32s| simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(16));
    let second = |x: S::f32s| simd.and_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(0xffff_0000));
    for (sums, row) in sums.iter_mut().zip(rows) {
        for (x, weights) in row[..length].iter().zip(weights.chunks_exact(VECTORS)) {
            let x = simd.splat_f32s(*x);
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                let product = |a, b, sum| {
                    simd.mul_add_e_f32s(simd.transmute_f32s_u32s(a), simd.transmute_f32s_u32s(b), sum)
                };
                *sum = product(first(x), first(weight), *sum);
                *sum = product(second(x), second(weight), *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn accumulate_bf16<const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[[f32; 16]; VECTORS]; ROWS],
    rows: &[&[f32]; ROWS],
    length: usize,
    weights: &[[f32; 16]],
) {
    use std::arch::x86_64::*;

    // The compiler drops all further checks after these.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..length];
    }
    let weights = &weights[..length * VECTORS];
    // SAFETY: there are 16 numbers.
    let loaded = |numbers: &[f32; 16]| unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
    // SAFETY: 64 bytes are 64 bytes.
    let pairs = |x: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
    // Never with an address in the loop, so that they stay in registers.
    let mut local: [[__m512; VECTORS]; ROWS] =
        std::array::from_fn(|r| std::array::from_fn(|v| loaded(&sums[r][v])));
    for i in 0..length {
        let weights: [__m512bh; VECTORS] = std::array::from_fn(|v| pairs(loaded(&weights[i * VECTORS + v])));
        for r in 0..ROWS {
            let x = pairs(_mm512_set1_ps(equal[r][i]));
            for v in 0..VECTORS {
                local[r][v] = _mm512_dpbf16_ps(local[r][v], x, weights[v]);
            }
        }
    }
    for (sums, local) in sums.iter_mut().zip(&local) {
        for (sum, local) in sums.iter_mut().zip(local) {
            // SAFETY: there is room for 16 numbers.
            unsafe { _mm512_storeu_ps(sum.as_mut_ptr(), *local) };
        }
    }
}

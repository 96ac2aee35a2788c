//! Products of bf16 pairs. A pair occupies one f32, the first value in the low half.

use pulp::Simd;

use super::Arch;
use super::panels::Sums;

/// Whether this CPU multiplies pairs faster than f32. On AMD the pair instruction takes as long as an f32 multiply-add
/// (<https://uops.info/html-instr/VDPBF16PS_ZMM_ZMM_ZMM.html>); on Intel, pairs reached 0.6 of the f32 speed.
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

/// The nearest bf16 in the high half, rounded half to even.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    bits + 0x7fff + (bits >> 16 & 1)
}

/// Packs two values into one f32.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
}

/// Packs `row`, of even length, into its first half.
#[inline(always)]
pub(super) fn pair_all<S: Simd>(_: S, row: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES == 16 && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: this CPU has the instructions.
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
        let mask = |part: &[f32]| ((1u32 << part.len()) - 1) as u16;
        // SAFETY: the masks limit reads to the slices, and writes to half as many values before them.
        unsafe {
            let (a, b) = (
                _mm512_maskz_loadu_ps(mask(low), low.as_ptr()),
                _mm512_maskz_loadu_ps(mask(high), high.as_ptr()),
            );
            let count = from.len() / 2;
            let pairs: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
            let to = &mut row[first / 2..first / 2 + count];
            _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), ((1u32 << count) - 1) as u16, pairs);
        }
    }
}

/// Like [`accumulate`](super::panels::accumulate), for pairs: adds the products of the first values and of the second
/// values.
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
        // Vectors of `S` are 16 values, but need not be aligned.
        let sums = std::ptr::from_mut(sums).cast::<[[[f32; 16]; VECTORS]; ROWS]>();
        let weights = weights.as_ptr().cast::<[f32; 16]>();
        // SAFETY: this CPU has the instructions, and both types are 16 values of f32.
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

    // Lets the compiler drop the bounds checks in the loop.
    let mut equal = *rows;
    for row in &mut equal {
        *row = &row[..length];
    }
    let weights = &weights[..length * VECTORS];
    // SAFETY: the array has 16 values.
    let loaded = |values: &[f32; 16]| unsafe { _mm512_loadu_ps(values.as_ptr()) };
    // SAFETY: both types have 64 bytes.
    let pairs = |x: __m512| unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
    // Copied by value: without an address in the loop, the compiler keeps the sums in registers.
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
            // SAFETY: the array has 16 values.
            unsafe { _mm512_storeu_ps(sum.as_mut_ptr(), *local) };
        }
    }
}

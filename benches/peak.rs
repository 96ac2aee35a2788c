//! The floating-point peak of one core.

use std::time::Instant;

use pulp::{Scalar, Simd, WithSimd};

/// Measures the peak in GFLOP/s with the widest vector instructions of the CPU, or with 256 bits if `SORAGEN_KERNELS` is
/// `avx2`.
pub fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V4::try_new().filter(|_| !named("avx2")) {
        return Simd::vectorize(simd, Peak);
    } else if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, Peak);
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(simd) = pulp::aarch64::Neon::try_new() {
        return Simd::vectorize(simd, Peak);
    }
    Simd::vectorize(Scalar, Peak)
}

/// Whether `SORAGEN_KERNELS` is `name`.
#[cfg(target_arch = "x86_64")]
fn named(name: &str) -> bool {
    std::env::var("SORAGEN_KERNELS").is_ok_and(|value| value == name)
}

/// Multiply-adds on registers only.
struct Peak;

impl WithSimd for Peak {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        const ROUNDS: usize = 200_000;
        let mut sums = [simd.splat_f32s(0.0); 12];
        let mut best = 0f64;
        for _ in 0..20 {
            let opaque = |x: f32| std::hint::black_box(x);
            let (x, y) = (simd.splat_f32s(opaque(1.0)), simd.splat_f32s(opaque(0.5)));
            let start = Instant::now();
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = simd.mul_add_e_f32s(x, y, *sum);
                }
            }
            let operations = (2 * sums.len() * S::F32_LANES * ROUNDS) as f64;
            best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
        }
        std::hint::black_box(sums);
        best
    }
}

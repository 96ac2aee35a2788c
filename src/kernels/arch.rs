//! The vector instruction set that the kernels use.

use pulp::{Scalar, Simd, WithSimd};

/// A vector instruction set. pulp's own dispatch depends on its build features: without one that gemm leaves off, it falls
/// back from AVX-512 to scalar code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arch {
    /// No vectors.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Arch {
    /// All instruction sets that this CPU supports, the widest last.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(Self::Avx2));
            all.extend(pulp::x86::V4::try_new().map(Self::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(pulp::aarch64::Neon::try_new().map(Self::Neon));
        all
    }

    /// Its name in `SORAGEN_KERNELS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }

    /// Runs `operation`, compiled for this instruction set.
    pub(crate) fn dispatch<Op: WithSimd>(self, operation: Op) -> Op::Output {
        match self {
            Self::Scalar => Simd::vectorize(Scalar, operation),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => Simd::vectorize(simd, operation),
        }
    }
}

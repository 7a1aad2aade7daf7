//! Which instructions the processor has, found out when a model is loaded.

use super::{Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use std::fmt;

/// A set of instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instructions(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

/// Something to compute with any set of instructions.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as must all that it calls to compute with `lanes`: only then is it compiled for them.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

impl Instructions {
    /// Every set that this processor has, the fastest first; the last one is that of any processor.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = [Avx512::detect().map(Kind::Avx512), Avx2::detect().map(Kind::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let vectors: [Option<Kind>; 0] = [];
        vectors.into_iter().flatten().chain([Kind::Portable(Portable)]).map(Self)
    }

    /// The fastest set that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self(Kind::Portable(Portable)))
    }

    /// Whether products are rounded together with their sums. Sets that are alike in this give the same results, to
    /// the last bit.
    #[must_use]
    pub fn is_fused(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => Avx512::IS_FUSED,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => Avx2::IS_FUSED,
            Kind::Portable(_) => Portable::IS_FUSED,
        }
    }

    /// Runs `kernel`, compiled for these instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(lanes) => lanes.run(kernel),
            Kind::Portable(lanes) => kernel.run(lanes),
        }
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "AVX-512 with VNNI",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "AVX2",
            Kind::Portable(_) => "no special instructions",
        })
    }
}

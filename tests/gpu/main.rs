//! Tests of a build with the feature `cuda`. `frames` needs a GPU, `fake` needs none.
#![cfg(feature = "cuda")]

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "reads the counts of a fake driver")]
mod fake;
#[allow(unsafe_code, reason = "fills the memory of the GPU")]
mod frames;

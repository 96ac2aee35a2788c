//! Parity with the reference.

mod autoencoder;
mod builtin;
mod cache;
mod cancel;
mod damaged;
mod experts;
#[cfg(all(feature = "cuda", target_os = "linux"))]
#[allow(unsafe_code, reason = "reads the counts of a fake driver")]
mod fake_gpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "fills the memory of the GPU")]
mod gpu;
mod image_encoder;
mod layouts;
mod lora;
mod offload;
mod original;
mod plain;
mod references;
mod restyle;
mod scheduler;
mod session;
mod shapes;
mod shots;
mod streamv2v;
mod transformer;
mod umt5;
mod vace;

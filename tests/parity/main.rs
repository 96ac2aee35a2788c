//! Parity with the reference.

mod autoencoder;
mod builtin;
mod cache;
mod cancel;
mod damaged;
mod experts;
#[cfg(feature = "cuda")]
mod gpu;
mod layouts;
mod offload;
mod plain;
mod scheduler;
mod session;
mod shapes;
mod shots;
mod transformer;
mod umt5;

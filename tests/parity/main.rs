//! Parity with the reference.

mod autoencoder;
mod builtin;
mod cache;
mod cancel;
mod changes;
mod damaged;
mod experts;
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

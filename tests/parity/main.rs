//! Parity with the reference.

mod autoencoder;
mod plain;
mod scheduler;
mod session;
mod shapes;
mod transformer;
mod umt5;

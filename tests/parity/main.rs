//! Parity with the reference.

mod scheduler;
mod shapes;
mod transformer;
mod umt5;

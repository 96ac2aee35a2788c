//! Parity with the reference.

mod scheduler;
mod transformer;

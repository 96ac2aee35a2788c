//! Parity with the reference.

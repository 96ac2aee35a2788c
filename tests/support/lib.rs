//! Shared by the tests.

pub mod fixtures;

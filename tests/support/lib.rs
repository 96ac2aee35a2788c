//! Shared by the tests.

pub mod fixtures;
pub mod recording;

//! Shared helpers of the tests.

pub mod fixtures;
pub mod hub;
pub mod recording;

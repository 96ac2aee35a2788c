//! Shared by the tests.

pub mod fixtures;
pub mod hub;
pub mod recording;

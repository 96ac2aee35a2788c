//! The element `soragen` in pipelines, on tiny models.

mod builtin;
mod cancel;
mod caps;
mod errors;
mod frames;
mod policy;
mod provenance;
mod support;

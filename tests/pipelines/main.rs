//! The GStreamer elements in pipelines, with tiny models.

mod address;
#[path = "../../plugins/soragen/examples/app.rs"]
mod app;
mod broadcast;
mod builtin;
mod cancel;
mod caps;
mod clients;
mod conditions;
mod conformance;
mod control;
mod cuda;
mod errors;
mod filter;
mod frames;
mod live;
#[path = "../../benches/memory.rs"]
mod memory;
mod policy;
mod prompter;
mod provenance;
mod references;
mod release;
mod scripts;
mod seeking;
mod signed;
mod slate;
mod storyboard;
mod support;

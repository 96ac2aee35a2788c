//! Downloads of models, from a server on this machine.

#[allow(unsafe_code, reason = "sets environment variables before threads start")]
mod element;
mod pull;

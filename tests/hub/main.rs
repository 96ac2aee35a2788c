//! Downloads of models, from a server on this machine.

mod element;
mod pull;

//! Models that come over the network, from a server on this machine.

mod element;
mod pull;

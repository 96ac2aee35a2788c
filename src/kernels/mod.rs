//! The hot loops on the CPU, each beside the plain candle form that it must equal.

mod gelu;

pub(crate) use gelu::gelu;

//! The operation that a linear layer applies to its product.

/// What happens to the product of a linear layer before it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epilogue {
    /// Stores the product.
    Store,
    /// Stores the GELU of the product.
    Gelu,
    /// Adds the product to the output.
    Add,
}

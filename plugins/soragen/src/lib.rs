//! soragen

//! Shared helpers of the tests.

pub mod driver;
pub mod fixtures;
pub mod hub;
pub mod recording;

/// A value with some of its public fields set: `with!(Request::default(); seed: 1, steps: Some(2))`. For types with private
/// or future fields, which a struct expression cannot build.
#[macro_export]
macro_rules! with {
    (@set $it:ident, $field:ident) => { $it.$field = $field };
    (@set $it:ident, $field:ident, $value:expr) => { $it.$field = $value };
    ($base:expr; $($field:ident $(: $value:expr)?),* $(,)?) => {{
        let mut it = $base;
        $($crate::with!(@set it, $field $(, $value)?);)*
        it
    }};
}

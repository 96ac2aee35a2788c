//! Enums that properties, URIs and options name by the same words.

/// Implements `ALL`, `Display` and `FromStr` for an enum from the name of each variant. The error for an unknown
/// word is about `$setting`.
macro_rules! text_enum {
    ($name:ident, $setting:ident, { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl $name {
            /// All values, in the order in which they are listed.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it in properties, URIs and options.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // `pad` keeps widths and alignment of the format string.
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;

            fn from_str(text: &str) -> crate::Result<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    crate::Error::Request(crate::Setting::$setting, format!(
                        "{text:?} is not a value of {}; use one of {}",
                        crate::Setting::$setting,
                        words.join(", ")
                    ))
                })
            }
        }
    };
}

pub(crate) use text_enum;

#[cfg(test)]
mod tests {
    use crate::Precision;

    #[test]
    fn every_value_is_parsed_from_its_name() {
        for &value in Precision::ALL {
            assert_eq!(value.to_string().parse::<Precision>().unwrap(), value);
        }
        let error = "f64".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("f64") && error.contains("bf16"), "{error}");
    }
}

//! Enumerations whose values have one name in configuration files, on the command line and in output.

/// A name that is not among an enumeration's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a {kind}; expected one of {}", .expected.join(", "))]
#[non_exhaustive]
pub struct UnknownName {
    /// The kind of value that was expected: `policy`, `precision`.
    pub kind: &'static str,
    /// The given name.
    pub found: String,
    /// The valid names.
    pub expected: Vec<&'static str>,
}

/// Implements `all`, `name`, `Display` and `FromStr` for an enumeration without fields. Its serde names must be the same.
macro_rules! named {
    ($type:ident, $kind:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in the order of its declaration.
            pub fn all() -> impl ExactSizeIterator<Item = Self> {
                [$(Self::$variant),+].into_iter()
            }

            /// The name in configuration files, on the command line and in output.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::all().find(|value| value.name() == text).ok_or_else(|| $crate::names::UnknownName {
                    kind: $kind,
                    found: text.to_owned(),
                    expected: Self::all().map(Self::name).collect(),
                })
            }
        }
    };
}

pub(crate) use named;

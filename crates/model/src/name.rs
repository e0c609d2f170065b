//! Names that people give, checked where they enter.
//!
//! A name that has been constructed is safe in a path, a URL, an environment variable's value and a
//! terminal: it has no separator, no control character and no leading dash or dot.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name can have at most {MAX} characters")]
    TooLong,
    #[error("a name must begin with a letter, a digit or `_`")]
    Start,
    #[error("a name may contain letters, digits and `{1}`, but not {0:?}")]
    Character(char, &'static str),
}

/// Longest name, in characters. Leaves room for a suffix in a file name of 255 bytes.
const MAX: usize = 100;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text, $extra)?;
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A project's name: letters, digits, `-`, `_`, `.`.
    ProjectName,
    "-_."
);
name!(
    /// A job's name in a plan: as written, and for an instance of a matrix `test:15` or
    /// `test:15,linux` (values in the order of the axes).
    JobName,
    "-_.:,+"
);

fn check(text: &str, extra: &'static str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if text.chars().count() > MAX {
        return Err(NameError::TooLong);
    }
    if let Some(bad) = text.chars().find(|c| !(c.is_alphanumeric() || extra.contains(*c))) {
        return Err(NameError::Character(bad, extra));
    }
    if !(first.is_alphanumeric() || first == '_') {
        return Err(NameError::Start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", "-x", ".x", "a/b", "a b", "$(x)", "a\n", "a\u{202e}b", "--upload-pack=x"] {
            assert!(ProjectName::new(bad).is_err(), "{bad:?}");
            assert!(JobName::new(bad).is_err(), "{bad:?}");
        }
        assert!(JobName::new("test:15,linux").is_ok());
        assert!(ProjectName::new("kiln_2.0-rc").is_ok());
    }
}

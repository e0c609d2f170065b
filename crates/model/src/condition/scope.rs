//! What names mean while a condition is evaluated.

use std::fmt;

use crate::state::JobState;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Missing: a run without a tag, a job without such an output.
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Value>),
    /// Not known yet: at plan time everything that only the run decides.
    Unknown,
}

/// What names and functions mean. A path is split at its dots: `needs.build.outputs.version`.
pub trait Scope {
    /// The value of a name; [`Value::Null`] for what does not exist.
    fn lookup(&self, path: &[&str]) -> Value;

    /// Paths changed by the trigger; `None`: unknown, every `changed(…)` holds.
    fn changed(&self) -> Option<&[String]>;

    /// The needs of the job and their states, for `success()`, `failure()` and `cancelled()`.
    /// `None`: not known yet.
    fn needs(&self) -> Option<Vec<(String, JobState)>> {
        None
    }
}

impl Value {
    /// Text, or `null` when there is none.
    pub fn text(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    /// Whether it holds, when it stands where a condition is wanted. `None`: unknown.
    pub(super) fn holds(&self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            value => Some(*value == Self::Bool(true)),
        }
    }

    pub(super) fn from_holds(holds: Option<bool>) -> Self {
        holds.map_or(Self::Unknown, Self::Bool)
    }
}

/// As written in a condition; long texts are cut, and nothing in it can move a terminal's cursor.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Unknown => f.write_str("not known yet"),
            Self::Text(text) => match text.char_indices().nth(SHOWN) {
                Some((cut, _)) => write!(f, "{:?}…", &text[..cut]),
                None => write!(f, "{text:?}"),
            },
            Self::List(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

//! The functions of the language: what they take, what they give, how they are written.

use super::check::Type;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    StartsWith,
    EndsWith,
    Contains,
    Lower,
    Size,
    Glob,
    Changed,
    Success,
    Failure,
    Cancelled,
    Always,
}

pub(super) struct Signature {
    pub function: Function,
    pub name: &'static str,
    /// What it takes. With `repeats`, the last one any number of times.
    pub parameters: &'static [Type],
    pub repeats: bool,
    pub gives: Type,
    /// How it is written.
    pub usage: &'static str,
}

use Type::{Any, Bool, Int, Text};

/// Every function. The parser, the check and the suggestions read this one table.
pub(super) const FUNCTIONS: &[Signature] = &[
    function(
        Function::StartsWith,
        "startsWith",
        &[Text, Text],
        Bool,
        "branch.startsWith(\"release/\")",
    ),
    function(Function::EndsWith, "endsWith", &[Text, Text], Bool, "branch.endsWith(\"-rc\")"),
    function(Function::Contains, "contains", &[Any, Any], Bool, "title.contains(\"[skip docs]\")"),
    function(Function::Lower, "lower", &[Text], Text, "lower(title)"),
    function(Function::Size, "size", &[Any], Int, "size(title) > 0"),
    function(Function::Glob, "glob", &[Text, Text], Bool, "glob(branch, \"release/*\")"),
    Signature {
        repeats: true,
        ..function(Function::Changed, "changed", &[Text], Bool, "changed(\"src/**\", \"Cargo.*\")")
    },
    function(Function::Success, "success", &[], Bool, "success()"),
    function(Function::Failure, "failure", &[], Bool, "failure()"),
    function(Function::Cancelled, "cancelled", &[], Bool, "cancelled()"),
    function(Function::Always, "always", &[], Bool, "always()"),
];

const fn function(
    function: Function,
    name: &'static str,
    parameters: &'static [Type],
    gives: Type,
    usage: &'static str,
) -> Signature {
    Signature { function, name, parameters, repeats: false, gives, usage }
}

impl Function {
    pub(super) fn signature(self) -> &'static Signature {
        let found = FUNCTIONS.iter().find(|signature| signature.function == self);
        found.expect("the table has every function")
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        FUNCTIONS.iter().find(|signature| signature.name == name).map(|s| s.function)
    }

    /// Whether it speaks of how the needs ended.
    pub(super) fn asks_needs(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Cancelled | Self::Always)
    }

    /// Which of its arguments are patterns.
    pub(super) fn is_pattern(self, argument: usize) -> bool {
        matches!((self, argument), (Self::Glob, 1) | (Self::Changed, _))
    }
}

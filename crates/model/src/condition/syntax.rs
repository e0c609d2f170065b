//! A condition as a tree. `&&` and `||` hold all their parts side by side, so that a long chain is
//! wide and not deep.

use std::ops::Range;

use super::Value;
use super::function::Function;
use crate::pattern::Glob;

#[derive(Debug)]
pub(super) struct Expr {
    pub span: Range<usize>,
    pub kind: Kind,
    /// How many levels of parts it has, itself included.
    pub height: usize,
}

impl Expr {
    pub(super) fn new(span: Range<usize>, kind: Kind) -> Self {
        let tallest = |parts: &[Self]| parts.iter().map(|part| part.height).max().unwrap_or(0);
        let below = match &kind {
            Kind::Literal(_) | Kind::Path(_) | Kind::Wrong => 0,
            Kind::Not(inner) => inner.height,
            Kind::Compare(left, _, right) => left.height.max(right.height),
            Kind::List(parts) | Kind::All(parts) | Kind::Any(parts) => tallest(parts),
            Kind::Call { arguments, .. } => tallest(arguments),
        };
        Self { span, kind, height: below + 1 }
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Literal(Value),
    /// `needs.build.state`: each part with its place.
    Path(Vec<(String, Range<usize>)>),
    List(Vec<Expr>),
    Not(Box<Expr>),
    /// `&&`
    All(Vec<Expr>),
    /// `||`
    Any(Vec<Expr>),
    Compare(Box<Expr>, Comparison, Box<Expr>),
    /// The receiver of a method is the first argument.
    Call {
        function: Function,
        arguments: Vec<Expr>,
        /// The patterns among the arguments that are literals, made once.
        globs: Vec<Glob>,
    },
    /// Something that was complained about.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    In,
}

impl Comparison {
    pub(super) fn from_sign(sign: &str) -> Option<Self> {
        Some(match sign {
            "==" => Self::Equal,
            "!=" => Self::Unequal,
            "<" => Self::Less,
            "<=" => Self::AtMost,
            ">" => Self::Greater,
            ">=" => Self::AtLeast,
            _ => return None,
        })
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::In => "in",
        }
    }

    pub(super) fn is_order(self) -> bool {
        matches!(self, Self::Less | Self::AtMost | Self::Greater | Self::AtLeast)
    }
}

//! A condition that has been checked, and what is said of one that is wrong.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::{self, Names};
use super::evaluate::{self, Verdict};
use super::lexer::lex;
use super::parser::parse;
use super::scope::Scope;
use super::syntax::{Expr, Kind};

/// Longest condition. A hundred times what people write.
const BYTES_MAX: usize = 10_000;
/// After so many complaints about one condition, more help nobody.
const ERRORS_MAX: usize = 10;

/// A checked condition. Stored and sent as its text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    text: String,
    root: Arc<Expr>,
}

/// A complaint about a part of a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConditionError {
    /// Byte range in the text.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl Condition {
    /// Reads and checks a condition as far as it can be without its manifest. All complaints at
    /// once, in the order of their places.
    pub fn parse(text: &str) -> Result<Self, Vec<ConditionError>> {
        Self::parse_with(text, &check::AnyNames)
    }

    /// As [`Condition::parse`], and checks inputs, axes, needs and outputs against those there are.
    pub fn parse_with(text: &str, names: &dyn Names) -> Result<Self, Vec<ConditionError>> {
        let root = tree(text, |root, errors| check::condition(root, names, errors))?;
        Ok(Self { text: text.to_owned(), root: Arc::new(root) })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it calls `success()`, `failure()`, `cancelled()` or `always()`: then it decides
    /// itself what failed needs mean, and nothing is assumed.
    pub fn asks_needs(&self) -> bool {
        fn asks(expr: &Expr) -> bool {
            match &expr.kind {
                Kind::Call { function, arguments, .. } => {
                    function.asks_needs() || arguments.iter().any(asks)
                }
                Kind::Not(inner) => asks(inner),
                Kind::All(parts) | Kind::Any(parts) | Kind::List(parts) => parts.iter().any(asks),
                Kind::Compare(left, _, right) => asks(left) || asks(right),
                Kind::Literal(_) | Kind::Path(_) | Kind::Wrong => false,
            }
        }
        asks(&self.root)
    }

    pub fn evaluate(&self, scope: &dyn Scope) -> Verdict {
        evaluate::verdict(&self.text, &self.root, scope)
    }
}

/// Reads a single name, such as `matrix.db`, as it stands in `${{ … }}`; gives its parts.
pub fn parse_name(text: &str, names: &dyn Names) -> Result<Vec<String>, Vec<ConditionError>> {
    let root = tree(text, |root, errors| match &root.kind {
        Kind::Path(_) => check::name(root, names, errors),
        Kind::Wrong => {}
        _ => errors.push(ConditionError::new(
            root.span.clone(),
            "only a name can stand in `${{ }}`".to_owned(),
            "as in `${{ matrix.db }}`",
        )),
    })?;
    match root.kind {
        Kind::Path(parts) => Ok(parts.into_iter().map(|part| part.0).collect()),
        _ => Ok(Vec::new()),
    }
}

fn tree(
    text: &str,
    check: impl FnOnce(&Expr, &mut Vec<ConditionError>),
) -> Result<Expr, Vec<ConditionError>> {
    if text.len() > BYTES_MAX {
        let message = format!("a condition can have at most {BYTES_MAX} bytes");
        return Err(vec![ConditionError::new(0..text.len(), message, "")]);
    }
    if text.trim().is_empty() {
        let message = "the condition is empty".to_owned();
        let help = "write one, as in `branch == \"main\"`, or remove the key";
        return Err(vec![ConditionError::new(0..text.len(), message, help)]);
    }
    let (tokens, mut errors) = lex(text);
    let (root, parse_errors) = parse(&tokens, text.len());
    // What follows from a character that is no token says nothing new.
    if errors.is_empty() {
        errors = parse_errors;
    }
    check(&root, &mut errors);
    if errors.is_empty() {
        return Ok(root);
    }
    errors.sort_by_key(|error| (error.span.start, error.span.end));
    errors.dedup();
    errors.truncate(ERRORS_MAX);
    Err(errors)
}

impl ConditionError {
    pub(super) fn new(span: Range<usize>, message: String, help: &str) -> Self {
        let help = (!help.is_empty()).then(|| help.to_owned());
        Self { span, message, help }
    }
}

/// Conditions are equal when they are written the same.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl TryFrom<String> for Condition {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|errors| errors[0].message.clone())
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.text
    }
}

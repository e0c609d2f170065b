//! The value of a condition, and the account of how it came about.
//!
//! Every part is evaluated, also one that no longer matters: that costs nothing here, and `kiln why`
//! then shows all of them.

use std::fmt::Write;

use super::check::show;
use super::function::Function;
use super::scope::{Scope, Value};
use super::syntax::{Comparison, Expr, Kind};
use crate::pattern::Glob;
use crate::state::JobState;

/// How many bytes of text one evaluation may look at. A condition of 10,000 bytes over the largest
/// outputs stays below a tenth of a second.
const BYTES_MAX: usize = 64 << 20;

/// The answer and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: depends on what is not known yet.
    pub holds: Option<bool>,
    /// One line a part: `branch == "main"  ->  false  (branch is "dev")`.
    pub trace: String,
}

pub(super) fn verdict(text: &str, root: &Expr, scope: &dyn Scope) -> Verdict {
    let mut evaluation = Evaluation { text, scope, facts: Vec::new(), lines: Vec::new(), spent: 0 };
    let holds = evaluation.truth(root);
    Verdict { holds, trace: evaluation.lines.join("\n") }
}

struct Evaluation<'a> {
    text: &'a str,
    scope: &'a dyn Scope,
    /// What the part at hand has found out so far: `branch is "dev"`.
    facts: Vec<String>,
    lines: Vec<String>,
    spent: usize,
}

impl Evaluation<'_> {
    /// A part that is true or false; writes one line for each smallest such part.
    fn truth(&mut self, expr: &Expr) -> Option<bool> {
        match &expr.kind {
            Kind::All(parts) => {
                let holds: Vec<_> = parts.iter().map(|part| self.truth(part)).collect();
                all(holds)
            }
            Kind::Any(parts) => {
                let holds: Vec<_> = parts.iter().map(|part| self.truth(part)).collect();
                any(holds)
            }
            Kind::Not(inner) if !is_smallest(inner) => self.truth(inner).map(|holds| !holds),
            _ => {
                let outer = std::mem::take(&mut self.facts);
                let value = self.value(expr);
                let facts = std::mem::replace(&mut self.facts, outer);
                self.line(expr, &value, &facts);
                value.holds()
            }
        }
    }

    fn line(&mut self, expr: &Expr, value: &Value, facts: &[String]) {
        let part = self.text.get(expr.span.clone()).unwrap_or_default();
        let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut line = format!("{part}  ->  {value}");
        if !facts.is_empty() {
            let _ = write!(line, "  ({})", facts.join(", "));
        }
        self.lines.push(line);
    }

    fn value(&mut self, expr: &Expr) -> Value {
        match &expr.kind {
            Kind::Literal(value) => value.clone(),
            Kind::Path(parts) => {
                let path: Vec<&str> = parts.iter().map(|part| part.0.as_str()).collect();
                let value = self.scope.lookup(&path);
                self.fact(format!("{} is {value}", show(parts)));
                value
            }
            Kind::List(items) => Value::List(items.iter().map(|item| self.value(item)).collect()),
            Kind::Not(inner) => Value::from_holds(self.value(inner).holds().map(|holds| !holds)),
            Kind::All(parts) => {
                let holds: Vec<_> = parts.iter().map(|part| self.value(part).holds()).collect();
                Value::from_holds(all(holds))
            }
            Kind::Any(parts) => {
                let holds: Vec<_> = parts.iter().map(|part| self.value(part).holds()).collect();
                Value::from_holds(any(holds))
            }
            Kind::Compare(left, comparison, right) => {
                let (left, right) = (self.value(left), self.value(right));
                Value::from_holds(self.compare(&left, *comparison, &right))
            }
            Kind::Call { function, arguments, globs } => {
                let values: Vec<Value> = arguments.iter().map(|a| self.value(a)).collect();
                self.call(*function, &values, globs)
            }
            // A condition with such a part was never made.
            Kind::Wrong => Value::Null,
        }
    }

    fn compare(&mut self, left: &Value, comparison: Comparison, right: &Value) -> Option<bool> {
        if !self.pay(&[left, right]) {
            return Some(false);
        }
        match comparison {
            Comparison::Equal => equal(left, right),
            Comparison::Unequal => equal(left, right).map(|equal| !equal),
            Comparison::In => match right {
                Value::List(items) => any(items.iter().map(|item| equal(left, item))),
                Value::Unknown => None,
                _ => Some(false),
            },
            _ => {
                let order = match (left, right) {
                    (Value::Unknown, _) | (_, Value::Unknown) => return None,
                    (Value::Int(left), Value::Int(right)) => left.cmp(right),
                    (Value::Text(left), Value::Text(right)) => left.cmp(right),
                    // Missing, or of two kinds: neither is before the other.
                    _ => return Some(false),
                };
                Some(match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::AtMost => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
        }
    }

    fn call(&mut self, function: Function, arguments: &[Value], globs: &[Glob]) -> Value {
        if !self.pay(&arguments.iter().collect::<Vec<_>>()) {
            return Value::Null;
        }
        match function {
            Function::Changed => return Value::Bool(self.changed(globs)),
            Function::Always => return Value::Bool(true),
            Function::Success | Function::Failure | Function::Cancelled => {
                return Value::from_holds(self.needs(function));
            }
            _ if arguments.contains(&Value::Unknown) => return Value::Unknown,
            _ => {}
        }
        let texts = |test: fn(&str, &str) -> bool| match arguments {
            [Value::Text(text), Value::Text(other)] => Value::Bool(test(text, other)),
            _ => Value::Bool(false),
        };
        match (function, arguments) {
            (Function::StartsWith, _) => texts(|text, start| text.starts_with(start)),
            (Function::EndsWith, _) => texts(|text, end| text.ends_with(end)),
            (Function::Contains, [Value::List(items), item]) => {
                Value::from_holds(any(items.iter().map(|other| equal(item, other))))
            }
            (Function::Contains, _) => texts(|text, part| text.contains(part)),
            (Function::Lower, [Value::Text(text)]) => Value::Text(text.to_lowercase()),
            (Function::Size, [Value::Text(text)]) => count(text.chars().count()),
            (Function::Size, [Value::List(items)]) => count(items.len()),
            (Function::Size, [Value::Null]) => Value::Int(0),
            (Function::Glob, [Value::Text(text), _]) => {
                Value::Bool(globs.first().is_some_and(|glob| glob.is_match(text)))
            }
            (Function::Glob, _) => Value::Bool(false),
            _ => Value::Null,
        }
    }

    fn changed(&mut self, globs: &[Glob]) -> bool {
        let Some(paths) = self.scope.changed() else {
            self.fact("what changed is not known, so everything counts".to_owned());
            return true;
        };
        let found = paths.iter().find(|path| globs.iter().any(|glob| glob.is_match(path)));
        match found {
            Some(path) => self.fact(format!("{} changed", Value::Text(path.clone()))),
            None if paths.is_empty() => self.fact("nothing changed".to_owned()),
            None => self.fact(format!("none of {} changed paths matches", paths.len())),
        }
        found.is_some()
    }

    fn needs(&mut self, function: Function) -> Option<bool> {
        let needs = self.scope.needs()?;
        let is = |state: JobState| match function {
            Function::Failure => matches!(state, JobState::Failed | JobState::Lost),
            Function::Cancelled => state == JobState::Cancelled,
            _ => !matches!(state, JobState::Success | JobState::Warning),
        };
        let decides = needs.iter().find(|(_, state)| state.is_over() && is(*state));
        if let Some((job, state)) = decides {
            self.fact(format!("need `{job}` is {state}"));
            return Some(function != Function::Success);
        }
        if let Some((job, state)) = needs.iter().find(|(_, state)| !state.is_over()) {
            self.fact(format!("need `{job}` is {state}"));
            return None;
        }
        Some(function == Function::Success)
    }

    /// Notes a fact once for each part.
    fn fact(&mut self, fact: String) {
        if !self.facts.contains(&fact) {
            self.facts.push(fact);
        }
    }

    /// Counts the text that is looked at. False: there was too much.
    fn pay(&mut self, values: &[&Value]) -> bool {
        fn n_bytes(value: &Value) -> usize {
            match value {
                Value::Text(text) => text.len(),
                Value::List(items) => items.iter().map(n_bytes).sum(),
                _ => 1,
            }
        }
        self.spent += values.iter().map(|value| n_bytes(value)).sum::<usize>();
        let within = self.spent <= BYTES_MAX;
        if !within {
            self.fact(format!("given up: more than {BYTES_MAX} bytes of text to look at"));
        }
        within
    }
}

/// A part that gets its own line, rather than its parts.
fn is_smallest(expr: &Expr) -> bool {
    !matches!(expr.kind, Kind::All(_) | Kind::Any(_) | Kind::Not(_))
}

fn all(parts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    any(parts.into_iter().map(|part| part.map(|holds| !holds))).map(|fails| !fails)
}

fn any(parts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part {
            Some(true) => return Some(true),
            Some(false) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(false) }
}

fn equal(left: &Value, right: &Value) -> Option<bool> {
    match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => None,
        (Value::List(left), Value::List(right)) if left.len() == right.len() => {
            all(left.iter().zip(right).map(|(left, right)| equal(left, right)))
        }
        _ => Some(left == right),
    }
}

fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

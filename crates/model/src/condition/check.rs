//! Names and types: what can be known to be wrong before anything is evaluated.

use std::fmt;
use std::ops::Range;

use kiln_stdx::suggest;

use super::Value;
use super::checked::ConditionError;
use super::function::Function;
use super::syntax::{Comparison, Expr, Kind};
use crate::state::JobState;
use crate::trigger::TriggerKind;

/// What kind of value a part has, as far as that is known. Each may also be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Any,
    Bool,
    Int,
    Text,
    List,
}

/// Which names a manifest has. The groups are `inputs`, `matrix`, `env`, `needs` and
/// `needs.JOB.outputs`.
pub trait Names {
    /// The names in a group and their types; `None`: any name can be there.
    fn members(&self, group: &[&str]) -> Option<Vec<(String, Type)>>;

    /// The way out, for a name that the group does not have, where more is known than the others.
    fn help(&self, _group: &[&str], _name: &str) -> Option<String> {
        None
    }
}

/// Knows nothing, and so allows every name in a group.
pub(super) struct AnyNames;

impl Names for AnyNames {
    fn members(&self, _group: &[&str]) -> Option<Vec<(String, Type)>> {
        None
    }
}

/// What a first name is.
#[derive(Clone, Copy)]
enum Root {
    Value(Type),
    /// `pull_request`: these parts.
    Fields(&'static [(&'static str, Type)]),
    /// Its members are the manifest's; a value has this type when the manifest does not say.
    Group(Type),
    Needs,
}

const ROOTS: &[(&str, Root)] = &[
    ("event", Root::Value(Type::Text)),
    ("branch", Root::Value(Type::Text)),
    ("tag", Root::Value(Type::Text)),
    ("commit", Root::Value(Type::Text)),
    ("actor", Root::Value(Type::Text)),
    ("title", Root::Value(Type::Text)),
    ("author", Root::Value(Type::Text)),
    ("pull_request", Root::Fields(PULL_REQUEST)),
    ("inputs", Root::Group(Type::Any)),
    ("matrix", Root::Group(Type::Text)),
    ("env", Root::Group(Type::Text)),
    ("needs", Root::Needs),
];

const PULL_REQUEST: &[(&str, Type)] =
    &[("number", Type::Int), ("base", Type::Text), ("from_fork", Type::Bool)];

/// Checks a whole condition.
pub(super) fn condition(root: &Expr, names: &dyn Names, errors: &mut Vec<ConditionError>) {
    let torn = !errors.is_empty();
    Checker { names, errors, torn }.truth(root);
}

/// Checks a single name.
pub(super) fn name(root: &Expr, names: &dyn Names, errors: &mut Vec<ConditionError>) {
    let torn = !errors.is_empty();
    Checker { names, errors, torn }.type_of(root);
}

struct Checker<'a> {
    names: &'a dyn Names,
    errors: &'a mut Vec<ConditionError>,
    /// The text could not be read as a whole, so nobody knows what its parts would make together.
    torn: bool,
}

impl Checker<'_> {
    /// A part that must be true or false.
    fn truth(&mut self, expr: &Expr) {
        let found = self.type_of(expr);
        if self.torn || matches!(found, Type::Any | Type::Bool) {
            return;
        }
        let help = match (&expr.kind, found) {
            (Kind::Path(parts), Type::Text) => {
                format!("compare it, as in `{} == \"…\"`", show(parts))
            }
            (Kind::Path(parts), Type::Int) => format!("compare it, as in `{} == 1`", show(parts)),
            _ => "compare it with something".to_owned(),
        };
        self.error(&expr.span, format!("this is {found}, which is neither true nor false"), &help);
    }

    fn type_of(&mut self, expr: &Expr) -> Type {
        match &expr.kind {
            Kind::Literal(value) => match value {
                Value::Bool(_) => Type::Bool,
                Value::Int(_) => Type::Int,
                Value::Text(_) => Type::Text,
                Value::List(_) => Type::List,
                Value::Null | Value::Unknown => Type::Any,
            },
            Kind::Path(parts) => self.path(parts),
            Kind::List(items) => {
                for item in items {
                    self.type_of(item);
                }
                Type::List
            }
            Kind::Not(inner) => {
                self.truth(inner);
                Type::Bool
            }
            Kind::All(parts) | Kind::Any(parts) => {
                for part in parts {
                    self.truth(part);
                }
                Type::Bool
            }
            Kind::Compare(left, comparison, right) => {
                self.compare(left, *comparison, right);
                Type::Bool
            }
            Kind::Call { function, arguments, .. } => {
                self.call(expr, *function, arguments);
                function.signature().gives
            }
            Kind::Wrong => Type::Any,
        }
    }

    fn compare(&mut self, left: &Expr, comparison: Comparison, right: &Expr) {
        let a = self.type_of(left);
        if let (Comparison::In, Kind::List(items)) = (comparison, &right.kind) {
            self.is_in(left, a, items);
            return self.words(left, right);
        }
        let b = self.type_of(right);
        let span = left.span.start..right.span.end;
        let sign = comparison.sign();
        match comparison {
            Comparison::In => self.is_not_list(right, b),
            _ if a != b && a != Type::Any && b != Type::Any => {
                let message = format!("`{sign}` compares {a} with {b}, which are never the same");
                self.error(&span, message, &quote_help(left, a, right, b));
            }
            _ if comparison.is_order() => {
                let odd = [a, b].into_iter().find(|t| matches!(t, Type::Bool | Type::List));
                if let Some(odd) = odd {
                    let message = format!("`{sign}` does not apply to {odd}");
                    self.error(&span, message, "it compares two numbers or two texts");
                }
            }
            _ => {}
        }
        self.words(left, right);
        self.words(right, left);
    }

    /// Each item is looked at once: a second look at every level would double with each.
    fn is_in(&mut self, left: &Expr, a: Type, items: &[Expr]) {
        for item in items {
            let b = self.type_of(item);
            if a != b && a != Type::Any && b != Type::Any {
                let message = format!("this is {b}, and what is looked for is {a}");
                self.error(&item.span, message, &quote_help(left, a, item, b));
            }
        }
    }

    fn is_not_list(&mut self, right: &Expr, b: Type) {
        match b {
            Type::List | Type::Any => {}
            Type::Text => {
                let help = "write `title.contains(\"x\")` to look for a text in a text";
                self.error(&right.span, "`in` needs a list on its right".to_owned(), help);
            }
            b => {
                let message = format!("`in` needs a list on its right, and this is {b}");
                self.error(&right.span, message, "as in `branch in [\"main\", \"dev\"]`");
            }
        }
    }

    /// A literal beside a name that has only certain words must be one of them.
    fn words(&mut self, name: &Expr, beside: &Expr) {
        let Kind::Path(parts) = &name.kind else { return };
        let path: Vec<&str> = parts.iter().map(|part| part.0.as_str()).collect();
        let words: Vec<&str> = match path[..] {
            ["event"] => TriggerKind::ALL.iter().map(|kind| kind.as_str()).collect(),
            ["needs", _, "state"] => JobState::ALL.iter().map(|state| state.as_str()).collect(),
            _ => return,
        };
        let literals = match &beside.kind {
            Kind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(beside),
        };
        for literal in literals {
            let Kind::Literal(Value::Text(text)) = &literal.kind else { continue };
            if !words.contains(&text.as_str()) {
                let message = format!("`{}` is never `{text}`", show(parts));
                let help = did_you_mean(text, words.iter().copied())
                    .unwrap_or_else(|| format!("it is one of {}", words.join(", ")));
                self.error(&literal.span, message, &help);
            }
        }
    }

    fn call(&mut self, call: &Expr, function: Function, arguments: &[Expr]) {
        let signature = function.signature();
        let (name, wanted) = (signature.name, signature.parameters);
        let types: Vec<Type> = arguments.iter().map(|argument| self.type_of(argument)).collect();
        let enough = match signature.repeats {
            true => arguments.len() >= wanted.len(),
            false => arguments.len() == wanted.len(),
        };
        if !enough {
            let n_wanted = match (signature.repeats, wanted.len()) {
                (_, 0) => "no value".to_owned(),
                (true, n) => format!("{n} or more values"),
                (false, 1) => "1 value".to_owned(),
                (false, n) => format!("{n} values"),
            };
            let message = format!("`{name}` takes {n_wanted}, not {}", arguments.len());
            return self.error(&call.span, message, &format!("as in `{}`", signature.usage));
        }
        for (at, (argument, found)) in arguments.iter().zip(&types).enumerate() {
            let wanted = wanted[at.min(wanted.len() - 1)];
            if *found != wanted && *found != Type::Any && wanted != Type::Any {
                let message = format!("`{name}` takes {wanted} here, and this is {found}");
                self.error(&argument.span, message, &format!("as in `{}`", signature.usage));
            }
        }
        let has_parts = |t: &Type| matches!(t, Type::Text | Type::List | Type::Any);
        match (function, types.as_slice()) {
            (Function::Size | Function::Contains, [first, ..]) if !has_parts(first) => {
                let message = format!("`{name}` takes a text or a list, and this is {first}");
                self.error(&arguments[0].span, message, &format!("as in `{}`", signature.usage));
            }
            (Function::Contains, [Type::Text, second @ (Type::Bool | Type::Int | Type::List)]) => {
                let message = format!("a text contains texts, and this is {second}");
                self.error(&arguments[1].span, message, &format!("as in `{}`", signature.usage));
            }
            _ => {}
        }
    }

    fn path(&mut self, parts: &[(String, Range<usize>)]) -> Type {
        let (first, span) = &parts[0];
        let Some((_, root)) = ROOTS.iter().find(|(name, _)| name == first) else {
            self.unknown_root(parts, span);
            return Type::Any;
        };
        match (root, &parts[1..]) {
            (Root::Value(found), rest) => self.end(*found, first, rest),
            (Root::Fields(fields), []) => self.incomplete(parts, fields.iter().map(|f| f.0)),
            (Root::Fields(fields), [field, rest @ ..]) => {
                match fields.iter().find(|(name, _)| *name == field.0) {
                    Some((name, found)) => self.end(*found, name, rest),
                    None => self.unknown(first, field, fields.iter().map(|f| f.0)),
                }
            }
            (Root::Group(_) | Root::Needs, []) => self.incomplete(parts, ["NAME"].into_iter()),
            (Root::Group(default), [member, rest @ ..]) => {
                let found = self.member(&[first], member).unwrap_or(*default);
                self.end(found, &member.0, rest)
            }
            (Root::Needs, [job]) => {
                self.member(&[first], job);
                self.incomplete(parts, ["state", "outputs.NAME"].into_iter())
            }
            (Root::Needs, [job, field, rest @ ..]) => {
                self.member(&[first], job);
                match (field.0.as_str(), rest) {
                    ("state", rest) => self.end(Type::Text, "state", rest),
                    ("outputs", []) => self.incomplete(parts, ["NAME"].into_iter()),
                    ("outputs", [output, rest @ ..]) => {
                        self.member(&[first, &job.0, "outputs"], output);
                        self.end(Type::Text, &output.0, rest)
                    }
                    _ => self.unknown("needs.JOB", field, ["state", "outputs"].into_iter()),
                }
            }
        }
    }

    /// A member of a group of the manifest. `None`: any name can be there, or it was complained about.
    fn member(&mut self, group: &[&str], member: &(String, Range<usize>)) -> Option<Type> {
        let members = self.names.members(group)?;
        if let Some((_, found)) = members.iter().find(|(name, _)| *name == member.0) {
            return Some(*found);
        }
        if let Some(help) = self.names.help(group, &member.0) {
            let message = format!("`{}` has no `{}`", group.join("."), member.0);
            self.error(&member.1, message, &help);
            return Some(Type::Any);
        }
        self.unknown(&group.join("."), member, members.iter().map(|(name, _)| name.as_str()));
        Some(Type::Any)
    }

    /// Nothing may follow a value.
    fn end(&mut self, found: Type, name: &str, rest: &[(String, Range<usize>)]) -> Type {
        let Some((part, span)) = rest.first() else { return found };
        self.error(span, format!("`{name}` has no part `{part}`"), "");
        Type::Any
    }

    fn unknown_root(&mut self, parts: &[(String, Range<usize>)], span: &Range<usize>) {
        let name = &parts[0].0;
        let is_job = self
            .names
            .members(&["needs"])
            .is_some_and(|jobs| parts.len() > 1 && jobs.iter().any(|(job, _)| job == name));
        let all: Vec<&str> = ROOTS.iter().map(|root| root.0).collect();
        let help = if is_job {
            format!("write `needs.{}`", show(parts))
        } else if let Some(help) = did_you_mean(name, all.iter().copied()) {
            help
        } else if parts.len() == 1 {
            format!("a text is written in quotation marks; the names are {}", all.join(", "))
        } else {
            format!("the names are {}", all.join(", "))
        };
        self.error(span, format!("there is no name `{name}`"), &help);
    }

    fn unknown<'n>(
        &mut self,
        group: &str,
        (name, span): &(String, Range<usize>),
        known: impl Iterator<Item = &'n str>,
    ) -> Type {
        let known: Vec<&str> = known.collect();
        let help = match did_you_mean(name, known.iter().copied()) {
            Some(help) => help,
            None if known.is_empty() => match group {
                "needs" => "this job has no `needs`".to_owned(),
                "inputs" => "declare it at `on.manual.inputs`".to_owned(),
                "matrix" => "this job has no `matrix`".to_owned(),
                _ if group.ends_with(".outputs") => {
                    format!("declare it at `outputs` of `{}`", group_job(group))
                }
                _ => String::new(),
            },
            None => format!("there is {}", known.join(", ")),
        };
        self.error(span, format!("`{group}` has no `{name}`"), &help);
        Type::Any
    }

    fn incomplete<'n>(
        &mut self,
        parts: &[(String, Range<usize>)],
        next: impl Iterator<Item = &'n str>,
    ) -> Type {
        let span = parts[0].1.start..parts[parts.len() - 1].1.end;
        let path = show(parts);
        let forms: Vec<String> = next.map(|next| format!("`{path}.{next}`")).collect();
        let message = format!("`{path}` is a group of values, not a value");
        self.error(&span, message, &format!("write {}", forms.join(" or ")));
        Type::Any
    }

    fn error(&mut self, span: &Range<usize>, message: String, help: &str) {
        self.errors.push(ConditionError::new(span.clone(), message, help));
    }
}

/// The way out of comparing `"1"` with `1`.
fn quote_help(left: &Expr, a: Type, right: &Expr, b: Type) -> String {
    for (this, found, other) in [(left, a, b), (right, b, a)] {
        match (&this.kind, found, other) {
            (Kind::Literal(Value::Int(number)), Type::Int, Type::Text) => {
                return format!("write `\"{number}\"`");
            }
            (Kind::Literal(Value::Bool(value)), Type::Bool, Type::Text) => {
                return format!("write `\"{value}\"`");
            }
            (Kind::Literal(Value::Text(text)), Type::Text, Type::Int)
                if text.parse::<i64>().is_ok() =>
            {
                return format!("write `{text}`");
            }
            (Kind::Literal(Value::Text(text)), Type::Text, Type::Bool)
                if text == "true" || text == "false" =>
            {
                return format!("write `{text}`");
            }
            (Kind::List(_), _, _) => return "write `in` to look in a list".to_owned(),
            _ => {}
        }
    }
    String::new()
}

fn did_you_mean<'n>(word: &str, among: impl Iterator<Item = &'n str>) -> Option<String> {
    suggest::nearest(word, among).map(|near| format!("did you mean `{near}`?"))
}

fn group_job(group: &str) -> &str {
    group.trim_start_matches("needs.").trim_end_matches(".outputs")
}

/// A path as it is written: dots, and brackets where a dot would not do.
pub(super) fn show(parts: &[(String, Range<usize>)]) -> String {
    let mut text = String::new();
    for (at, (part, _)) in parts.iter().enumerate() {
        let plain = part.chars().all(|c| c.is_alphanumeric() || c == '_');
        match (at, plain) {
            (0, _) => text.push_str(part),
            (_, true) => text.extend([".", part]),
            (_, false) => text.push_str(&format!("[{part:?}]")),
        }
    }
    text
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "a value",
            Self::Bool => "a truth value",
            Self::Int => "a number",
            Self::Text => "a text",
            Self::List => "a list",
        })
    }
}

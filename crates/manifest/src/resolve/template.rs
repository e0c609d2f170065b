//! `${{ … }}`: names filled in where nothing can be injected, refused in commands.
//!
//! A command gets the same values as environment variables, so that a branch called `$(rm -rf /)`
//! is only a text.

use std::collections::BTreeMap;
use std::ops::Range;

use kiln_model::condition::{Facts, Scope, Value, parse_name};

use super::name::variable_part;
use super::scope::{JobNames, Known};
use crate::complaint::Complaints;
use crate::node::Text;

/// Fills in names for one instance of a job.
pub struct Filler<'a> {
    pub known: &'a Known<'a>,
    pub names: &'a JobNames<'a>,
    pub matrix: &'a BTreeMap<String, String>,
}

impl Filler<'_> {
    /// The text with every `${{ name }}` replaced by its value; by nothing where there is none.
    pub fn fill(&self, text: &Text, complaints: &mut Complaints) -> String {
        if !text.value.contains("${{") {
            return text.value.clone();
        }
        let mut filled = String::new();
        let mut after = 0;
        for (place, inner) in holes(&text.value) {
            filled.push_str(&text.value[after..place.start]);
            after = place.end;
            match inner {
                Some(inner) => filled.push_str(&self.value(text, inner, complaints)),
                None => {
                    let span = self.known.source.within(&text.span, &text.value, &place);
                    complaints.error(span, "`${{` is not closed", "write `}}` after the name");
                }
            }
        }
        filled.push_str(&text.value[after..]);
        filled
    }

    pub fn fill_all(&self, texts: &[Text], complaints: &mut Complaints) -> Vec<String> {
        texts.iter().map(|text| self.fill(text, complaints)).collect()
    }

    pub fn fill_pairs(
        &self,
        pairs: &[(Text, Text)],
        complaints: &mut Complaints,
    ) -> BTreeMap<String, String> {
        let pair =
            |(name, value): &(Text, Text)| (name.value.clone(), self.fill(value, complaints));
        pairs.iter().map(pair).collect()
    }

    fn value(&self, text: &Text, inner: Range<usize>, complaints: &mut Complaints) -> String {
        let place = |part: Range<usize>| {
            let part = inner.start + part.start..inner.start + part.end;
            self.known.source.within(&text.span, &text.value, &part)
        };
        let written = &text.value[inner.clone()];
        let first = written.trim().split(['.', '[']).next().unwrap_or_default();
        let wrong = match first {
            "" => Some(("there is no name in `${{ }}`".to_owned(), "as in `${{ matrix.db }}`")),
            "needs" | "env" => Some((
                format!("`{first}` is not known yet when the plan is made"),
                "a step can use it as an environment variable",
            )),
            _ => None,
        };
        if let Some((message, help)) = wrong {
            complaints.error(place(0..written.len()), message, help);
            return String::new();
        }
        let path = match parse_name(written, self.names) {
            Ok(path) => path,
            Err(errors) => {
                for error in errors {
                    let help = error.help.unwrap_or_default();
                    complaints.error(place(error.span), error.message, help);
                }
                return String::new();
            }
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let env = BTreeMap::new();
        let facts = Facts {
            trigger: self.known.trigger,
            inputs: self.known.inputs,
            matrix: self.matrix,
            env: &env,
        };
        match facts.lookup(&path) {
            Value::Text(value) => value,
            Value::Int(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null | Value::List(_) | Value::Unknown => String::new(),
        }
    }

    /// Complains about every `${{ … }}` in a text that is run or that has no names to fill in.
    pub fn refuse(&self, text: &Text, what: &str, complaints: &mut Complaints) {
        if !text.value.contains("${{") {
            return;
        }
        for (place, inner) in holes(&text.value) {
            let written = inner.map(|inner| text.value[inner].trim()).unwrap_or_default();
            let span = self.known.source.within(&text.span, &text.value, &place);
            complaints.error(
                span,
                format!("`${{{{ }}}}` does not work in {what}"),
                variable(written),
            );
        }
    }
}

/// The places of `${{ … }}`, each with the place of what is inside; `None`: it is not closed.
fn holes(text: &str) -> Vec<(Range<usize>, Option<Range<usize>>)> {
    let mut holes = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${{") {
        let start = at + found;
        match text[start..].find("}}") {
            Some(length) => {
                at = start + length + 2;
                holes.push((start..at, Some(start + 3..at - 2)));
            }
            None => {
                holes.push((start..start + 3, None));
                break;
            }
        }
    }
    holes
}

/// The environment variable that has the value of a name, as the way out.
fn variable(name: &str) -> String {
    let path: Vec<&str> = name.split('.').map(str::trim).collect();
    let variable = match path[..] {
        ["matrix", axis] => format!("KILN_MATRIX_{}", variable_part(axis)),
        ["inputs", input] => format!("KILN_INPUT_{}", variable_part(input)),
        ["needs", job, "outputs", output] => {
            format!("KILN_NEEDS_{}_{}", variable_part(job), variable_part(output))
        }
        ["env", name] => name.to_owned(),
        ["secrets", name] => return format!("list `{name}` at `secrets` and write `${name}`"),
        [one @ ("event" | "branch" | "tag" | "commit" | "actor" | "title" | "author")] => {
            format!("KILN_{}", variable_part(one))
        }
        ["pull_request", "number"] => "KILN_PULL_REQUEST".to_owned(),
        ["pull_request", "base"] => "KILN_BASE".to_owned(),
        ["github", "sha"] => "KILN_COMMIT".to_owned(),
        ["github", "ref_name"] => "KILN_BRANCH".to_owned(),
        ["github", "actor"] => "KILN_ACTOR".to_owned(),
        ["github", "event_name"] => "KILN_EVENT".to_owned(),
        _ => return "use an environment variable, such as `$KILN_BRANCH`".to_owned(),
    };
    format!("use the environment variable `${variable}`")
}

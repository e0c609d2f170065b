//! Names that people give: jobs, variables, secrets, outputs, axes, inputs.

use std::collections::HashMap;

use kiln_stdx::suggest;

use crate::complaint::Complaints;
use crate::node::{Text, first_line};
use crate::written::{Job, Written};

pub fn check(written: &Written, complaints: &mut Complaints) {
    variables(&written.env, complaints);
    words("an input", written.inputs.iter().map(|input| &input.name), complaints);
    let mut seen = HashMap::new();
    for job in &written.jobs {
        job_name(&job.name, complaints);
        if let Some(first) = seen.insert(&job.name.value, &job.name) {
            let message = format!("two jobs are called `{}`", first_line(&first.value, 40));
            complaints.error(job.name.span.clone(), message, "");
        }
        of_job(job, complaints);
    }
}

fn of_job(job: &Job, complaints: &mut Complaints) {
    variables(&job.env, complaints);
    for step in &job.steps {
        variables(&step.env, complaints);
    }
    for service in &job.services {
        service_name(&service.name, complaints);
        variables_of_service(&service.env, complaints);
    }
    for secret in &job.secrets {
        variable("a secret", secret, complaints);
        if job.env.iter().any(|(name, _)| name.value == secret.value) {
            let message = format!("`{}` is both a secret and a variable in `env`", secret.value);
            complaints.error(secret.span.clone(), message, "remove one of them");
        }
    }
    words("an output", job.outputs.iter(), complaints);
    if let Some(matrix) = &job.matrix {
        let included = matrix.include.iter().flat_map(|entry| entry.value.iter().map(|p| &p.0));
        let mut seen = std::collections::HashSet::new();
        let axes = matrix.axes.iter().map(|axis| &axis.0).chain(included);
        words("an axis", axes.filter(|axis| seen.insert(axis.value.as_str())), complaints);
    }
}

/// As the plan's names, but without what separates the parts of an instance's name.
fn job_name(name: &Text, complaints: &mut Complaints) {
    let text = name.value.as_str();
    let odd = text.chars().find(|c| !(c.is_alphanumeric() || "-_.".contains(*c)));
    let first = text.chars().next();
    let message = match (first, odd) {
        (None, _) => "a job needs a name".to_owned(),
        (_, Some(odd)) => {
            format!("a job's name may have letters, digits, `-`, `_` and `.`, but not {odd:?}")
        }
        (Some(first), _) if !(first.is_alphanumeric() || first == '_') => {
            "a job's name must begin with a letter, a digit or `_`".to_owned()
        }
        _ if text.chars().count() > 100 => {
            "a job's name can have at most 100 characters".to_owned()
        }
        _ => return,
    };
    complaints.error(name.span.clone(), message, "");
}

fn variables(env: &[(Text, Text)], complaints: &mut Complaints) {
    for (name, _) in env {
        variable("a variable", name, complaints);
    }
}

/// What a container is given is not our environment, so `KILN_` is free there.
fn variables_of_service(env: &[(Text, Text)], complaints: &mut Complaints) {
    for (name, _) in env.iter().filter(|(name, _)| !name.value.starts_with("KILN_")) {
        variable("a variable", name, complaints);
    }
}

/// As the shell can read it: `[A-Za-z_][A-Za-z0-9_]*`.
fn variable(what: &str, name: &Text, complaints: &mut Complaints) {
    let text = name.value.as_str();
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let begins = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    let shown = first_line(text, 40);
    if !good || !begins {
        let message = match text.is_empty() {
            true => format!("{what} needs a name"),
            false => format!("`{shown}` cannot be the name of {what}"),
        };
        let fixed: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let help = match begins && !good {
            true => {
                format!("it has ASCII letters, digits and `_` only: `{}`", first_line(&fixed, 40))
            }
            false => "it begins with an ASCII letter or `_`".to_owned(),
        };
        complaints.error(name.span.clone(), message, help);
    } else if text.to_ascii_uppercase().starts_with("KILN_") {
        let message =
            format!("`{shown}` cannot be set: variables that begin with `KILN_` are kiln's");
        complaints.error(name.span.clone(), message, "choose another name");
    }
}

/// Names that become a part of a variable's name: `KILN_MATRIX_DB`. Two that become the same are
/// one too many.
fn words<'a>(what: &str, names: impl Iterator<Item = &'a Text>, complaints: &mut Complaints) {
    let mut seen: HashMap<String, &Text> = HashMap::new();
    for name in names {
        let text = name.value.as_str();
        let good = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !good || !begins {
            let message = format!("`{}` cannot be the name of {what}", first_line(text, 40));
            let help = "it begins with an ASCII letter and has letters, digits, `_` and `-`";
            complaints.error(name.span.clone(), message, help);
            continue;
        }
        if let Some(first) = seen.insert(variable_part(text), name) {
            let message = match first.value == text {
                true => format!("`{text}` is listed twice"),
                false => format!("`{text}` and `{}` would be the same variable", first.value),
            };
            complaints.error(name.span.clone(), message, "");
        }
    }
}

fn service_name(name: &Text, complaints: &mut Complaints) {
    let text = name.value.as_str();
    let good = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !good || !begins || text.len() > 63 {
        let message = format!("`{}` cannot be the name of a service", first_line(text, 40));
        let help = "it is a host name: lower-case letters, digits and `-`, at most 63";
        complaints.error(name.span.clone(), message, help);
    }
}

/// A name as part of a variable's name: upper case, everything but letters and digits as `_`.
pub fn variable_part(name: &str) -> String {
    let part = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(part).collect()
}

/// "did you mean …", or all that there is.
pub fn suggestion<'a>(
    word: &str,
    among: impl Iterator<Item = &'a str> + Clone,
    what: &str,
) -> String {
    /// More than can be read at once is not listed.
    const SHOWN: usize = 12;
    if let Some(near) = suggest::nearest(word, among.clone()) {
        return format!("did you mean `{near}`?");
    }
    let shown: Vec<&str> = among.clone().take(SHOWN).collect();
    match among.count() {
        0 => String::new(),
        n if n > SHOWN => format!("{what} {} and {} more", shown.join(", "), n - SHOWN),
        _ => format!("{what} {}", shown.join(", ")),
    }
}

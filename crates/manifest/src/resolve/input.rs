//! The inputs of a run by hand: what is declared, and what was given.

use std::collections::BTreeMap;

use kiln_model::plan::InputValue;
use kiln_model::{Trigger, TriggerKind};

use super::name::suggestion;
use crate::complaint::Complaints;
use crate::node::first_line;
use crate::written::{Input, InputKind, Written};

impl InputKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Choice => "choice",
            Self::Boolean => "boolean",
            Self::Number => "number",
        }
    }
}

/// As pages and commands show it.
pub fn declared(input: &Input) -> crate::planning::Input {
    crate::planning::Input {
        name: input.name.value.clone(),
        kind: input.kind.as_str().to_owned(),
        options: input.options.iter().map(|option| option.value.clone()).collect(),
        default: input.default.as_ref().map(|default| default.value.clone()),
        required: input.required,
        description: input.description.clone(),
    }
}

/// The default values.
pub fn defaults(written: &Written, complaints: &mut Complaints) -> BTreeMap<String, InputValue> {
    let mut values = BTreeMap::new();
    for input in &written.inputs {
        if input.kind == InputKind::Choice && input.options.is_empty() {
            let message = format!("the choice `{}` has no `options`", input.name.value);
            let help = "write `options: [staging, production]`";
            complaints.error(input.name.span.clone(), message, help);
            continue;
        }
        if input.kind != InputKind::Choice && !input.options.is_empty() {
            let message = format!("only a choice has `options`, and `{}` is not", input.name.value);
            let help = "write `type: choice`";
            complaints.error(input.options[0].span.clone(), message, help);
        }
        let Some(default) = &input.default else { continue };
        match value(input, &default.value) {
            Ok(value) => drop(values.insert(input.name.value.clone(), value)),
            Err((message, help)) => complaints.error(default.span.clone(), message, help),
        }
    }
    values
}

/// The default values, and some value for the rest.
pub fn samples(written: &Written, complaints: &mut Complaints) -> BTreeMap<String, InputValue> {
    let mut values = defaults(written, complaints);
    for input in &written.inputs {
        let sample = match (input.kind, input.options.first()) {
            (InputKind::Choice, Some(option)) => InputValue::Text(option.value.clone()),
            (InputKind::Text | InputKind::Choice, _) => InputValue::Text("value".to_owned()),
            (InputKind::Boolean, _) => InputValue::Boolean(false),
            (InputKind::Number, _) => InputValue::Number(1),
        };
        values.entry(input.name.value.clone()).or_insert(sample);
    }
    values
}

/// The values of a run: what was given, and defaults for the rest.
pub fn values(
    written: &Written,
    trigger: &Trigger,
    complaints: &mut Complaints,
) -> BTreeMap<String, InputValue> {
    let mut values = defaults(written, complaints);
    for (name, given) in &trigger.inputs {
        match written.inputs.iter().find(|input| input.name.value == *name) {
            Some(input) => match value(input, given) {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err((message, help)) => complaints.error(input.name.span.clone(), message, help),
            },
            None => {
                let message = format!("the manifest has no input `{}`", first_line(name, 40));
                let names = written.inputs.iter().map(|input| input.name.value.as_str());
                let help = match written.inputs.is_empty() {
                    true => "inputs are declared at `on.manual.inputs`".to_owned(),
                    false => suggestion(name, names, "its inputs are"),
                };
                let place = written.inputs.first().map_or(0..0, |input| input.name.span.clone());
                complaints.error(place, message, help);
            }
        }
    }
    // Nobody is there to be asked when a push or a schedule starts the run.
    let by_hand =
        matches!(trigger.kind, TriggerKind::Manual | TriggerKind::Api | TriggerKind::Local);
    for input in written.inputs.iter().filter(|input| input.required && by_hand) {
        if !values.contains_key(&input.name.value)
            && !trigger.inputs.contains_key(&input.name.value)
        {
            let message = format!("the input `{}` is required and was not given", input.name.value);
            let help = format!("give it with `-i {}=VALUE`", input.name.value);
            complaints.error(input.name.span.clone(), message, help);
        }
    }
    values
}

/// A text as a value of the input's type, or what is wrong with it.
fn value(input: &Input, text: &str) -> Result<InputValue, (String, String)> {
    let wrong = |what: &str, help: String| {
        let name = &input.name.value;
        Err((format!("`{}` is not {what} of the input `{name}`", first_line(text, 40)), help))
    };
    match input.kind {
        InputKind::Text if text.contains('\0') => wrong("a value", "it has a NUL character".into()),
        InputKind::Text => Ok(InputValue::Text(text.to_owned())),
        InputKind::Boolean => match text {
            "true" => Ok(InputValue::Boolean(true)),
            "false" => Ok(InputValue::Boolean(false)),
            _ => wrong("a value", "it is `true` or `false`".to_owned()),
        },
        InputKind::Number => match text.parse() {
            Ok(number) => Ok(InputValue::Number(number)),
            Err(_) => wrong("a value", "it is a whole number".to_owned()),
        },
        InputKind::Choice if input.options.iter().any(|option| option.value == text) => {
            Ok(InputValue::Text(text.to_owned()))
        }
        InputKind::Choice => {
            let options = input.options.iter().map(|option| option.value.as_str());
            wrong("an option", suggestion(text, options, "the options are"))
        }
    }
}

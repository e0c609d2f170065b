//! The names that are known as soon as a run has a plan.
//!
//! Whoever also knows how needs ended wraps this: `needs.…` is unknown here.

use std::collections::BTreeMap;

use super::{Scope, Value};
use crate::plan::{InputValue, Job, Plan};
use crate::trigger::Trigger;

/// A trigger, the run's inputs and, for a job, its matrix and variables.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub trigger: &'a Trigger,
    pub inputs: &'a BTreeMap<String, InputValue>,
    pub matrix: &'a BTreeMap<String, String>,
    pub env: &'a BTreeMap<String, String>,
}

impl<'a> Facts<'a> {
    pub fn of(trigger: &'a Trigger, plan: &'a Plan, job: &'a Job) -> Self {
        Self { trigger, inputs: &plan.inputs, matrix: &job.matrix, env: &job.env }
    }
}

impl Scope for Facts<'_> {
    fn lookup(&self, path: &[&str]) -> Value {
        let trigger = self.trigger;
        match path {
            ["event"] => Value::Text(trigger.kind.as_str().to_owned()),
            ["branch"] => Value::text(trigger.branch.as_deref()),
            ["tag"] => Value::text(trigger.tag.as_deref()),
            ["commit"] => Value::Text(trigger.commit.clone()),
            ["actor"] => Value::text(trigger.actor.as_deref()),
            ["title"] => Value::Text(trigger.title.clone()),
            ["author"] => Value::Text(trigger.author.clone()),
            ["pull_request", field] => match (&trigger.pull_request, *field) {
                (Some(request), "number") => {
                    Value::Int(i64::try_from(request.number).unwrap_or(i64::MAX))
                }
                (Some(request), "base") => Value::Text(request.base.clone()),
                (Some(request), "from_fork") => Value::Bool(request.from_fork),
                _ => Value::Null,
            },
            ["inputs", name] => self.inputs.get(*name).map_or(Value::Null, Value::from),
            ["matrix", axis] => Value::text(self.matrix.get(*axis).map(String::as_str)),
            ["env", name] => Value::text(self.env.get(*name).map(String::as_str)),
            ["needs", ..] => Value::Unknown,
            _ => Value::Null,
        }
    }

    fn changed(&self) -> Option<&[String]> {
        self.trigger.changed.as_deref()
    }
}

impl From<&InputValue> for Value {
    fn from(input: &InputValue) -> Self {
        match input {
            InputValue::Boolean(value) => Self::Bool(*value),
            InputValue::Number(value) => Self::Int(*value),
            InputValue::Text(value) => Self::Text(value.clone()),
        }
    }
}

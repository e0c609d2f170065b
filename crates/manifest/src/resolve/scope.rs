//! What is known while planning: for names that are checked, and for names that are filled in.

use std::collections::BTreeMap;

use kiln_model::Trigger;
use kiln_model::condition::{Names, Type};
use kiln_model::plan::InputValue;

use crate::source::Source;
use crate::written::{InputKind, Job, Written};

/// What every job's resolving needs.
pub struct Known<'a> {
    pub written: &'a Written,
    pub source: &'a Source,
    pub trigger: &'a Trigger,
    pub inputs: &'a BTreeMap<String, InputValue>,
}

/// The names that a job can use.
pub struct JobNames<'a> {
    pub written: &'a Written,
    pub job: &'a Job,
}

impl Names for JobNames<'_> {
    fn members(&self, group: &[&str]) -> Option<Vec<(String, Type)>> {
        let texts = |names: Vec<&str>| {
            Some(names.into_iter().map(|name| (name.to_owned(), Type::Text)).collect())
        };
        match group {
            ["inputs"] => {
                let input = |input: &crate::written::Input| {
                    let kind = match input.kind {
                        InputKind::Text | InputKind::Choice => Type::Text,
                        InputKind::Boolean => Type::Bool,
                        InputKind::Number => Type::Int,
                    };
                    (input.name.value.clone(), kind)
                };
                Some(self.written.inputs.iter().map(input).collect())
            }
            ["matrix"] => {
                let Some(matrix) = &self.job.matrix else { return Some(Vec::new()) };
                let included = matrix.include.iter().flat_map(|entry| &entry.value);
                let axes = matrix.axes.iter().map(|axis| axis.0.value.as_str());
                texts(axes.chain(included.map(|pair| pair.0.value.as_str())).collect())
            }
            ["needs"] => texts(self.job.needs.iter().map(|need| need.value.as_str()).collect()),
            ["needs", need, "outputs"] => {
                // `test:15` has the outputs of `test`.
                let group = need.split(':').next().unwrap_or(need);
                let job = self.written.jobs.iter().find(|job| job.name.value == group)?;
                texts(job.outputs.iter().map(|output| output.value.as_str()).collect())
            }
            _ => None,
        }
    }

    fn help(&self, group: &[&str], name: &str) -> Option<String> {
        let mut others = self.written.jobs.iter().filter(|job| job.name != self.job.name);
        let is_job = others.any(|job| job.name.value == name);
        match group {
            ["needs"] if is_job => Some(format!("add `{name}` to the `needs` of this job")),
            _ => None,
        }
    }
}

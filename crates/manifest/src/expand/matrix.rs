//! A matrix as its instances.
//!
//! The axes are multiplied, the last one fastest. `exclude` takes away the combinations that have
//! all of its values. An entry of `include` extends every combination that it does not contradict;
//! when it contradicts all of them, it is one more combination.

use std::collections::{BTreeMap, HashMap, HashSet};

use kiln_model::JobName;
use kiln_model::limit::PLAN_JOBS_MAX;
use kiln_stdx::suggest;

use crate::complaint::Complaints;
use crate::node::first_line;
use crate::written::{Job, Matrix};

/// Most entries of `include` and `exclude`.
const ENTRIES_MAX: usize = 1_000;
/// Longest name of an instance, in characters, as [`JobName`] allows.
const NAME_MAX: usize = 100;

/// One job of the plan, of a group.
#[derive(Debug)]
pub struct Instance {
    pub name: JobName,
    pub matrix: BTreeMap<String, String>,
}

/// Values in the order of the axes.
type Values = Vec<(String, String)>;

/// The instances of a job whose name is `group`. At most `n_left`; more are complained about.
pub fn instances(
    job: &Job,
    group: &JobName,
    n_left: usize,
    complaints: &mut Complaints,
) -> Vec<Instance> {
    let Some(matrix) = &job.matrix else {
        if n_left == 0 {
            too_many(job, complaints);
            return Vec::new();
        }
        return vec![Instance { name: group.clone(), matrix: BTreeMap::new() }];
    };
    if !check(matrix, complaints) {
        return Vec::new();
    }
    let n = matrix.axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.1.len()));
    if n.is_none_or(|n| n.saturating_add(matrix.include.len()) > n_left) {
        too_many(job, complaints);
        return Vec::new();
    }
    let mut combinations = product(matrix);
    exclude(matrix, &mut combinations, complaints);
    let axes: HashSet<&str> = matrix.axes.iter().map(|axis| axis.0.value.as_str()).collect();
    let mut named: Vec<(Values, Values)> =
        combinations.into_iter().map(|values| (values.clone(), values)).collect();
    include(matrix, &axes, &mut named);
    if named.is_empty() {
        let help = "every combination is excluded";
        complaints.error(matrix.span.clone(), "the matrix has no combination", help);
    }
    let mut taken = HashMap::new();
    named
        .into_iter()
        .map(|(shown, values)| Instance {
            name: name(group, &shown, &mut taken),
            matrix: values.into_iter().collect(),
        })
        .collect()
}

fn too_many(job: &Job, complaints: &mut Complaints) {
    let span = job.matrix.as_ref().map_or(job.name.span.clone(), |matrix| matrix.span.clone());
    let message = format!("the plan would have more than {PLAN_JOBS_MAX} jobs");
    complaints.error(span, message, "write fewer values, or split the pipeline");
}

/// Whether it can be multiplied out.
fn check(matrix: &Matrix, complaints: &mut Complaints) -> bool {
    let n_before = complaints.len();
    let mut error = |span: &std::ops::Range<usize>, message: String, help: &str| {
        complaints.error(span.clone(), message, help);
    };
    if matrix.axes.is_empty() && matrix.include.is_empty() {
        let help = "write an axis, as in `matrix: { db: [\"15\", \"16\"] }`";
        error(&matrix.span, "the matrix has no axis".to_owned(), help);
    }
    for (axis, values) in &matrix.axes {
        let mut seen = HashSet::new();
        for value in values {
            if !seen.insert(&value.value) {
                let shown = first_line(&value.value, 40);
                error(&value.span, format!("`{}` has the value `{shown}` twice", axis.value), "");
            }
        }
    }
    if matrix.include.len() + matrix.exclude.len() > ENTRIES_MAX {
        let message = format!("`include` and `exclude` have more than {ENTRIES_MAX} entries");
        error(&matrix.span, message, "write the values as axes");
    }
    for entry in matrix.exclude.iter().filter(|_| !matrix.axes.is_empty()) {
        for (key, _) in &entry.value {
            let axes = || matrix.axes.iter().map(|axis| axis.0.value.as_str());
            if !axes().any(|axis| axis == key.value) {
                let help = match suggest::nearest(&key.value, axes()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the axes are {}", axes().collect::<Vec<_>>().join(", ")),
                };
                error(&key.span, format!("the matrix has no axis `{}`", key.value), &help);
            }
        }
    }
    // An axis without values has not its shape, and that was said before.
    complaints.len() == n_before && matrix.axes.iter().all(|axis| !axis.1.is_empty())
}

fn product(matrix: &Matrix) -> Vec<Values> {
    if matrix.axes.is_empty() {
        return Vec::new();
    }
    let mut combinations: Vec<Values> = vec![Vec::new()];
    for (axis, values) in &matrix.axes {
        let longer = |shorter: &Values| -> Vec<Values> {
            let with = |value: &crate::node::Text| {
                let mut longer = shorter.clone();
                longer.push((axis.value.clone(), value.value.clone()));
                longer
            };
            values.iter().map(with).collect()
        };
        combinations = combinations.iter().flat_map(longer).collect();
    }
    combinations
}

fn exclude(matrix: &Matrix, combinations: &mut Vec<Values>, complaints: &mut Complaints) {
    for entry in &matrix.exclude {
        let n_before = combinations.len();
        combinations.retain(|values| {
            let has = |key: &str, value: &str| values.iter().any(|(k, v)| k == key && v == value);
            entry.value.is_empty() || !entry.value.iter().all(|(k, v)| has(&k.value, &v.value))
        });
        if combinations.len() == n_before {
            let help = "each value must be written as in the axis";
            complaints.warning(entry.span.clone(), "this excludes no combination", help);
        }
    }
}

/// The first of each pair is what the name shows, the second all values.
fn include(matrix: &Matrix, axes: &HashSet<&str>, named: &mut Vec<(Values, Values)>) {
    let n_multiplied = named.len();
    for entry in &matrix.include {
        let mut fitted = false;
        for (_, values) in &mut named[..n_multiplied] {
            let contradicts = entry.value.iter().any(|(key, value)| {
                axes.contains(key.value.as_str())
                    && !values.iter().any(|(k, v)| *k == key.value && *v == value.value)
            });
            if contradicts {
                continue;
            }
            fitted = true;
            for (key, value) in &entry.value {
                match values.iter_mut().find(|(k, _)| *k == key.value) {
                    Some((_, old)) => old.clone_from(&value.value),
                    None => values.push((key.value.clone(), value.value.clone())),
                }
            }
        }
        if !fitted && !entry.value.is_empty() {
            let pair = |(key, value): &(crate::node::Text, crate::node::Text)| {
                (key.value.clone(), value.value.clone())
            };
            let mut values: Values = entry.value.iter().map(pair).collect();
            // In the order of the axes, and then as written.
            let place = |key: &str| matrix.axes.iter().position(|axis| axis.0.value == key);
            values.sort_by_key(|(key, _)| place(key).unwrap_or(usize::MAX));
            named.push((values.clone(), values));
        }
    }
}

/// `test:15,linux`. What a name cannot hold becomes `-`; what is then not unique gets a number.
fn name(group: &JobName, values: &Values, taken: &mut HashMap<String, usize>) -> JobName {
    let lawful = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let shown: Vec<String> =
        values.iter().map(|(_, value)| value.chars().map(lawful).collect()).collect();
    let full = format!("{group}:{}", shown.join(","));
    let short: String = full.chars().take(NAME_MAX - 8).collect();
    let short = if full.chars().count() > NAME_MAX { short } else { full };
    let n = taken.entry(short.clone()).or_insert(0);
    *n += 1;
    let name = if *n == 1 { short } else { format!("{short}+{n}") };
    JobName::new(name).unwrap_or_else(|_| group.clone())
}

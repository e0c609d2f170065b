//! `if`, checked against the names that the job has.

use kiln_model::condition::{Condition, Names};

use crate::complaint::Complaints;
use crate::source::Source;
use crate::written::Job;

/// The condition; `None` when there is none or when it is wrong. It is decided by the run, which
/// knows how needs ended, and is stored as it is written.
pub fn condition(
    job: &Job,
    names: &dyn Names,
    source: &Source,
    complaints: &mut Complaints,
) -> Option<Condition> {
    // That it is empty has been said.
    let written = job.condition.as_ref().filter(|written| !written.value.trim().is_empty())?;
    match Condition::parse_with(&written.value, names) {
        Ok(condition) => Some(condition),
        Err(errors) => {
            for error in errors {
                let place = source.within(&written.span, &written.value, &error.span);
                complaints.error(place, error.message, error.help.unwrap_or_default());
            }
            None
        }
    }
}

//! Whether a trigger is wanted.
//!
//! Without `on`, every push, tag and pull request is. A person, the API and `kiln run` always get
//! their run; a schedule only when there is one.

use kiln_model::pattern::Globs;
use kiln_model::{Trigger, TriggerKind};

use crate::complaint::Complaints;
use crate::node::{Text, first_line};
use crate::written::{Filter, On};

/// `Err`: why not. Wrong patterns are complained about, whatever the trigger.
pub fn wanted(
    on: Option<&On>,
    trigger: &Trigger,
    complaints: &mut Complaints,
) -> Result<(), String> {
    let Some(on) = on else {
        return match trigger.kind {
            TriggerKind::Schedule => Err("the manifest has no `on.schedule`".to_owned()),
            _ => Ok(()),
        };
    };
    schedule(&on.schedule, complaints);
    let rules = [
        (TriggerKind::Push, on.push.as_ref().map(|filter| Rule::new(filter, complaints))),
        (TriggerKind::PullRequest, on.pull_request.as_ref().map(|f| Rule::new(f, complaints))),
        (TriggerKind::Tag, on.tag.as_ref().map(|filter| Rule::new(filter, complaints))),
    ];
    match trigger.kind {
        TriggerKind::Manual | TriggerKind::Api | TriggerKind::Local => Ok(()),
        TriggerKind::Schedule if on.schedule.is_empty() => {
            Err("the manifest has no `on.schedule`".to_owned())
        }
        TriggerKind::Schedule => Ok(()),
        kind => match rules.iter().find(|(wanted, _)| *wanted == kind) {
            Some((_, Some(rule))) => rule.wants(trigger),
            _ => Err(format!("`on` has no `{kind}`")),
        },
    }
}

fn schedule(crons: &[Text], complaints: &mut Complaints) {
    for cron in crons {
        let n_fields = cron.value.split_whitespace().count();
        if n_fields != 5 {
            let message = format!("`cron` has {n_fields} fields, and needs 5");
            let help = "minute, hour, day, month, day of the week, as in `0 4 * * *`";
            complaints.error(cron.span.clone(), message, help);
        }
        let message = "`schedule` is accepted and has no effect yet in this version";
        complaints.warning(cron.span.clone(), message, "");
    }
}

/// A filter with its patterns made.
struct Rule {
    names: Globs,
    paths: Globs,
}

impl Rule {
    fn new(filter: &Filter, complaints: &mut Complaints) -> Self {
        Self { names: globs(&filter.names, complaints), paths: globs(&filter.paths, complaints) }
    }

    fn wants(&self, trigger: &Trigger) -> Result<(), String> {
        // A pull request is filtered by the branch that it wants to change.
        let (key, name) = match (trigger.kind, &trigger.pull_request) {
            (TriggerKind::PullRequest, Some(request)) => {
                ("on.pull_request.branches", Some(&request.base))
            }
            (TriggerKind::PullRequest, None) => ("on.pull_request.branches", None),
            (TriggerKind::Tag, _) => ("on.tag", trigger.tag.as_ref()),
            _ => ("on.push.branches", trigger.branch.as_ref()),
        };
        if let Some(name) = name
            && !self.names.is_empty()
            && !self.names.is_match(name)
        {
            return Err(format!("`{key}` has no `{}`", first_line(name, 100)));
        }
        let Some(changed) = &trigger.changed else { return Ok(()) };
        if !self.paths.is_empty() && !changed.iter().any(|path| self.paths.is_match(path)) {
            let n = changed.len();
            let paths =
                if n == 1 { "the changed path".into() } else { format!("{n} changed paths") };
            return Err(format!("`on.{}.paths` has none of {paths}", trigger.kind));
        }
        Ok(())
    }
}

fn globs(patterns: &[Text], complaints: &mut Complaints) -> Globs {
    let mut globs = Globs::default();
    // An empty pattern has not the shape of one, and that was said.
    for pattern in patterns.iter().filter(|pattern| !pattern.value.is_empty()) {
        if let Err(error) = globs.push(&pattern.value) {
            let shown = first_line(&pattern.value, 40);
            let message = format!("`{shown}` is not a pattern: {error}");
            let help = "`*` matches within a name, `**` across folders, `?` one character, \
                        `{a,b}` either";
            complaints.error(pattern.span.clone(), message, help);
        }
    }
    globs
}

//! Which caches a run's jobs may read and keep.
//!
//! A branch reads its own, then what it will be merged into, then the default branch's. A pull request
//! from another repository, whose owner need not be trusted, reads the same trusted ones and keeps its
//! own where nobody else looks.

use kiln_api::agent::CacheScopes;
use kiln_git::WorkingTree;
use kiln_model::layer::Source;
use kiln_model::{Trigger, TriggerKind};
use kiln_store::StoreError;

use super::Runs;
use super::live::Live;

/// Where nobody has said which branch is the default one.
const USUAL: [&str; 2] = ["main", "master"];

impl Runs {
    pub(super) async fn cache_scopes(&self, live: &Live) -> Result<CacheScopes, StoreError> {
        let default = match &live.row.source {
            Source::Git { .. } => {
                self.store().project_by_id(live.row.project).await?.default_branch
            }
            Source::WorkingTree { path } => {
                let path = path.clone();
                let look = move || WorkingTree::discover(&path).ok()?.default_branch();
                // A repository that cannot be read is told of elsewhere.
                tokio::task::spawn_blocking(look).await.ok().flatten()
            }
        };
        let project = Some(live.row.project);
        Ok(CacheScopes { project, ..scopes(&live.row.trigger, default.as_deref()) })
    }
}

/// The scopes of a trigger. The kind goes before the name: a branch may be called `pull/12`.
fn scopes(trigger: &Trigger, default: Option<&str>) -> CacheScopes {
    let branch = |name: &str| format!("branch/{name}");
    let pull = trigger.pull_request.as_ref();
    let own = match (trigger.kind, pull) {
        (TriggerKind::PullRequest, Some(pull)) if pull.from_fork => {
            Some(format!("pull/{}", pull.number))
        }
        // Whose it is cannot be told.
        (TriggerKind::PullRequest, None) => None,
        _ => match (&trigger.branch, &trigger.tag) {
            (Some(name), _) => Some(branch(name)),
            (None, Some(tag)) => Some(format!("tag/{tag}")),
            (None, None) => Some("detached".to_owned()),
        },
    };
    let base = pull.map(|pull| pull.base.as_str());
    let usual = match default {
        Some(default) => vec![default],
        None => USUAL.to_vec(),
    };
    let mut read: Vec<String> = Vec::new();
    for scope in own.iter().cloned().chain(base.into_iter().chain(usual).map(branch)) {
        if !read.contains(&scope) {
            read.push(scope);
        }
    }
    CacheScopes { read, write: own, ..CacheScopes::default() }
}

#[cfg(test)]
mod tests {
    use kiln_model::trigger::PullRequest;

    use super::*;

    fn pull(from_fork: bool, branch: &str) -> Trigger {
        let pull = PullRequest { number: 12, base: "next".into(), from_fork };
        Trigger {
            branch: Some(branch.into()),
            pull_request: Some(pull),
            ..Trigger::new(TriggerKind::PullRequest, "c")
        }
    }

    fn told(trigger: &Trigger, default: Option<&str>) -> (String, String) {
        let scopes = scopes(trigger, default);
        (scopes.read.join(" "), scopes.write.unwrap_or_default())
    }

    fn said(read: &str, write: &str) -> (String, String) {
        (read.to_owned(), write.to_owned())
    }

    #[test]
    fn a_branch_falls_back_to_the_default_branch() {
        let mut push = Trigger::new(TriggerKind::Push, "c");
        push.branch = Some("topic".into());
        assert_eq!(told(&push, Some("trunk")), said("branch/topic branch/trunk", "branch/topic"));
        push.branch = Some("trunk".into());
        assert_eq!(told(&push, Some("trunk")), said("branch/trunk", "branch/trunk"));
        assert_eq!(
            told(&push, None),
            said("branch/trunk branch/main branch/master", "branch/trunk")
        );
    }

    #[test]
    fn a_pull_request_from_a_fork_keeps_what_only_it_reads() {
        // Whoever opens it chooses its branch's name.
        assert_eq!(
            told(&pull(true, "main"), Some("main")),
            said("pull/12 branch/next branch/main", "pull/12")
        );
        assert_eq!(
            told(&pull(false, "topic"), Some("main")),
            said("branch/topic branch/next branch/main", "branch/topic")
        );
        let mut branch = Trigger::new(TriggerKind::Push, "c");
        branch.branch = Some("pull/12".into());
        assert_eq!(scopes(&branch, None).write.as_deref(), Some("branch/pull/12"));
        let unknown = Trigger { pull_request: None, ..pull(true, "main") };
        assert_eq!(scopes(&unknown, Some("main")).write, None);
    }
}

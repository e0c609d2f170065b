//! Plain git: what a post-receive hook says of each ref, and what it means.

use kiln_model::{Trigger, TriggerKind};

/// One ref of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// A branch or a tag is now here. `trigger` says so and knows nothing of the commit yet; for an
    /// annotated tag its `commit` is the tag's own id.
    Head { ref_name: String, trigger: Box<Trigger> },
    /// A branch or a tag is gone.
    Gone { ref_name: String },
    /// Nothing that starts a run.
    Ignored { ref_name: String, why: &'static str },
}

/// Reads one line `<old> <new> <ref>` of a push.
pub fn read(ref_name: &str, old: &str, new: &str, actor: Option<&str>) -> Pushed {
    let ref_name = ref_name.to_owned();
    if !is_id(old) || !is_id(new) {
        return Pushed::Ignored { ref_name, why: "its ids are not object ids" };
    }
    let (kind, branch, tag) = match ref_name.split_at_checked("refs/heads/".len()) {
        Some(("refs/heads/", branch)) if !branch.is_empty() => {
            (TriggerKind::Push, Some(branch.to_owned()), None)
        }
        _ => match ref_name.strip_prefix("refs/tags/") {
            Some(tag) if !tag.is_empty() => (TriggerKind::Tag, None, Some(tag.to_owned())),
            _ => return Pushed::Ignored { ref_name, why: "it is neither a branch nor a tag" },
        },
    };
    if is_zero(new) {
        return Pushed::Gone { ref_name };
    }
    let mut trigger = Trigger::new(kind, new);
    trigger.before = (!is_zero(old)).then(|| old.to_owned());
    trigger.branch = branch;
    trigger.tag = tag;
    trigger.actor = actor.map(str::to_owned);
    Pushed::Head { ref_name, trigger: Box::new(trigger) }
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_zero(id: &str) -> bool {
    id.bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "0000000000000000000000000000000000000000";
    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";

    #[test]
    fn branches_and_tags_are_heads_and_the_rest_is_not() {
        let Pushed::Head { trigger, .. } = read("refs/heads/a/b", OLD, NEW, Some("me")) else {
            panic!("a branch is a head")
        };
        assert_eq!((trigger.kind, trigger.branch.as_deref()), (TriggerKind::Push, Some("a/b")));
        assert_eq!((trigger.before.as_deref(), trigger.actor.as_deref()), (Some(OLD), Some("me")));
        let Pushed::Head { trigger, .. } = read("refs/tags/v1", ZERO, NEW, None) else {
            panic!("a tag is a head")
        };
        assert_eq!((trigger.kind, trigger.tag.as_deref()), (TriggerKind::Tag, Some("v1")));
        assert_eq!(trigger.before, None);
        let gone = Pushed::Gone { ref_name: "refs/heads/x".to_owned() };
        assert_eq!(read("refs/heads/x", OLD, ZERO, None), gone);
        for other in ["refs/notes/x", "refs/heads/", "refs/tags/", "HEAD", "", "refs/hea", "é"] {
            let ignored = read(other, OLD, NEW, None);
            assert!(matches!(ignored, Pushed::Ignored { .. }), "{other:?}");
        }
        for id in ["", "1", "--upload-pack=x", "zzzz", &"A".repeat(40)] {
            assert!(matches!(read("refs/heads/x", OLD, id, None), Pushed::Ignored { .. }), "{id}");
        }
    }
}

//! `on`.

use crate::node::Node;
use crate::written::{Filter, Input, InputKind, On};

use super::read::{is_true, many, one_or_many};

pub fn on(node: &Node) -> On {
    if node.entries().is_empty() {
        let words = many(Some(node));
        let has = |word: &str| words.iter().any(|text| text.value == word);
        let filter = |word| has(word).then(Filter::default);
        return On {
            push: filter("push"),
            pull_request: filter("pull_request"),
            tag: filter("tag"),
            schedule: Vec::new(),
        };
    }
    let schedule = node.get("schedule").map(one_or_many).unwrap_or_default();
    On {
        push: node.get("push").and_then(|node| filter(node, "branches")),
        pull_request: node.get("pull_request").and_then(|node| filter(node, "branches")),
        tag: node.get("tag").and_then(|node| filter(node, "names")),
        schedule: schedule.into_iter().filter_map(|node| node.get("cron")?.text()).collect(),
    }
}

/// `push: false` is as if it were not there.
fn filter(node: &Node, names: &str) -> Option<Filter> {
    match node.truth() {
        Some(false) => None,
        Some(true) => Some(Filter::default()),
        None if node.entries().is_empty() => {
            Some(Filter { names: many(Some(node)), paths: Vec::new() })
        }
        None => Some(Filter { names: many(node.get(names)), paths: many(node.get("paths")) }),
    }
}

/// The inputs of `on.manual`.
pub fn inputs(node: &Node) -> Vec<Input> {
    let inputs = node.get("manual").and_then(|manual| manual.get("inputs"));
    let entries = inputs.map(Node::entries).unwrap_or_default();
    let input = |(name, node): &(crate::node::Text, std::rc::Rc<Node>)| {
        let options = node.get("options").map(one_or_many).unwrap_or_default();
        let kind = node.get("type").and_then(Node::text).map(|text| text.value);
        Input {
            name: name.clone(),
            kind: match kind.as_deref() {
                Some("choice") => InputKind::Choice,
                Some("boolean") => InputKind::Boolean,
                Some("number") => InputKind::Number,
                None if !options.is_empty() => InputKind::Choice,
                _ => InputKind::Text,
            },
            options: options.into_iter().filter_map(Node::text).collect(),
            default: node.get("default").and_then(Node::text),
            required: is_true(node.get("required")),
            description: node.get("description").and_then(Node::text).map(|text| text.value),
        }
    };
    entries.iter().map(input).collect()
}

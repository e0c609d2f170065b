//! A tree of the right shape as what was written. What has not the right shape is left out.

use std::rc::Rc;

use super::{job, trigger};
use crate::node::{Kind, Node, Text};
use crate::written::Written;

pub fn manifest(root: &Node) -> Written {
    let on = root.get("on");
    let jobs = root.get("jobs").map(Node::entries).unwrap_or_default();
    Written {
        on: on.map(trigger::on),
        inputs: on.map(trigger::inputs).unwrap_or_default(),
        env: pairs(root.get("env")),
        jobs: jobs.iter().map(|(name, node)| job::job(name, node)).collect(),
    }
}

/// One text or several.
pub fn many(node: Option<&Node>) -> Vec<Text> {
    let Some(node) = node else { return Vec::new() };
    match node.text() {
        Some(text) => vec![text],
        None => texts(node.items()),
    }
}

pub fn texts(items: &[Rc<Node>]) -> Vec<Text> {
    items.iter().filter_map(|item| item.text()).collect()
}

/// A map of names to texts.
pub fn pairs(node: Option<&Node>) -> Vec<(Text, Text)> {
    let entries = node.map(Node::entries).unwrap_or_default();
    let pair = |(name, value): &(Text, Rc<Node>)| Some((name.clone(), value.text()?));
    entries.iter().filter_map(pair).collect()
}

/// The items of a list, or the one value.
pub fn one_or_many(node: &Node) -> Vec<&Node> {
    match &node.kind {
        Kind::List(items) => items.iter().map(|item| &**item).collect(),
        _ => vec![node],
    }
}

pub fn is_true(node: Option<&Node>) -> bool {
    node.and_then(Node::truth) == Some(true)
}

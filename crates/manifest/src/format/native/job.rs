//! One entry of `jobs`.

use std::time::Duration;

use kiln_model::plan::{RetryOn, Snapshots};
use kiln_stdx::duration;

use crate::node::{Node, Spanned, Text};
use crate::written::{Cache, Combination, Job, Lock, Matrix, Run, Service, Step, Workspace};

use super::read::{is_true, many, one_or_many, pairs, texts};
use super::surroundings::{limits, surroundings};

pub fn job(name: &Text, node: &Node) -> Job {
    let text = |key| node.get(key).and_then(Node::text);
    let services = node.get("services").map(Node::entries).unwrap_or_default();
    Job {
        name: name.clone(),
        needs: many(node.get("needs")),
        condition: text("if"),
        matrix: node.get("matrix").filter(|node| !node.entries().is_empty()).map(matrix),
        always: is_true(node.get("always")),
        allow_failure: is_true(node.get("allow_failure")),
        surroundings: surroundings(node),
        ssh: text("ssh"),
        labels: many(node.get("labels")),
        env: pairs(node.get("env")),
        steps: steps(node.get("steps")),
        shell: text("shell").map(|text| text.value),
        directory: text("directory"),
        timeout: timeout(node),
        retry: node.get("retry").and_then(retry),
        artifacts: artifacts(node.get("artifacts")),
        secrets: many(node.get("secrets")),
        lock: node.get("lock").and_then(lock),
        outputs: many(node.get("outputs")),
        inputs: many(node.get("inputs")),
        cache: caches(node.get("cache")),
        cache_key: text("cache_key"),
        workspace: node.get("workspace").and_then(workspace),
        snapshots: text("snapshots").and_then(|word| snapshots(&word)),
        services: services.iter().filter_map(|(name, node)| service(name, node)).collect(),
        approve: node.get("approve").and_then(approve),
        priority: node
            .get("priority")
            .and_then(Node::int)
            .and_then(|value| i32::try_from(value).ok())
            .unwrap_or(0),
    }
}

fn steps(node: Option<&Node>) -> Vec<Step> {
    let Some(node) = node else { return Vec::new() };
    one_or_many(node).into_iter().filter_map(step).collect()
}

fn step(node: &Node) -> Option<Step> {
    let run = match node.text() {
        Some(script) => Run::Script(script),
        None => {
            let run = node.get("run")?;
            match run.text() {
                Some(script) => Run::Script(script),
                None => Run::Argv(texts(run.items())),
            }
        }
    };
    Some(Step {
        span: node.span.clone(),
        name: node.get("name").and_then(Node::text),
        run,
        env: pairs(node.get("env")),
        shell: node.get("shell").and_then(Node::text).map(|text| text.value),
        directory: node.get("directory").and_then(Node::text),
        timeout: timeout(node),
        always: is_true(node.get("always")),
    })
}

fn timeout(node: &Node) -> Option<Duration> {
    timeout_at(node, "timeout")
}

fn timeout_at(node: &Node, key: &str) -> Option<Duration> {
    duration::parse(&node.get(key)?.text()?.value).ok()
}

fn matrix(node: &Node) -> Matrix {
    let combinations = |key| -> Vec<Combination> {
        let nodes = node.get(key).map(one_or_many).unwrap_or_default();
        nodes.into_iter().map(|n| Spanned::new(pairs(Some(n)), n.span.clone())).collect()
    };
    let axes = node.entries().iter().filter(|(name, _)| {
        // The two keys that are no axes.
        !matches!(name.value.as_str(), "include" | "exclude")
    });
    Matrix {
        span: node.span.clone(),
        axes: axes.map(|(name, values)| (name.clone(), many(Some(values)))).collect(),
        include: combinations("include"),
        exclude: combinations("exclude"),
    }
}

fn retry(node: &Node) -> Option<(u32, Vec<RetryOn>)> {
    let attempts = node.int().or_else(|| node.get("attempts")?.int())?;
    let word = |text: Text| match text.value.as_str() {
        "failed" => Some(RetryOn::Failed),
        "timeout" => Some(RetryOn::Timeout),
        "lost" => Some(RetryOn::Lost),
        "error" => Some(RetryOn::Error),
        _ => None,
    };
    let mut on: Vec<RetryOn> = many(node.get("on")).into_iter().filter_map(word).collect();
    if node.get("on").is_none() {
        on = vec![RetryOn::Failed, RetryOn::Timeout, RetryOn::Lost, RetryOn::Error];
    }
    Some((u32::try_from(attempts).ok()?, on))
}

fn artifacts(node: Option<&Node>) -> Vec<(Text, bool)> {
    let Some(node) = node else { return Vec::new() };
    let artifact = |node: &Node| match node.text() {
        Some(path) => Some((path, false)),
        None => Some((node.get("path")?.text()?, is_true(node.get("optional")))),
    };
    one_or_many(node).into_iter().filter_map(artifact).collect()
}

fn lock(node: &Node) -> Option<Lock> {
    if let Some(name) = node.text() {
        return Some(Lock { span: node.span.clone(), any: vec![name], limit: 1 });
    }
    let mut any = many(node.get("name"));
    any.extend(many(node.get("any")));
    let limit = node.get("limit").and_then(Node::int);
    let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(1);
    Some(Lock { span: node.span.clone(), any, limit })
}

fn caches(node: Option<&Node>) -> Vec<Cache> {
    let Some(node) = node else { return Vec::new() };
    let cache = |node: &Node| match node.text() {
        Some(path) => Some(Cache { path, key: None }),
        None => Some(Cache {
            path: node.get("path")?.text()?,
            key: node.get("key").and_then(Node::text),
        }),
    };
    one_or_many(node).into_iter().filter_map(cache).collect()
}

fn workspace(node: &Node) -> Option<Workspace> {
    match node.text() {
        Some(word) if word.value == "none" => Some(Workspace::Nothing),
        Some(word) if word.value == "fresh" => Some(Workspace::Fresh),
        Some(_) => None,
        None => Some(Workspace::From(many(node.get("from")))),
    }
}

fn snapshots(word: &Text) -> Option<Snapshots> {
    match word.value.as_str() {
        "steps" => Some(Snapshots::Steps),
        "off" => Some(Snapshots::Off),
        _ => None,
    }
}

fn service(name: &Text, node: &Node) -> Option<Service> {
    let image = node.text().or_else(|| node.get("image")?.text())?;
    Some(Service {
        name: name.clone(),
        image,
        env: pairs(node.get("env")),
        ready: node.get("ready").and_then(Node::text),
        ready_timeout: timeout_at(node, "ready_timeout"),
        command: node.get("command").map(|command| texts(command.items())),
        limits: node.get("limits").map(limits).unwrap_or_default(),
    })
}

fn approve(node: &Node) -> Option<Vec<Text>> {
    match node.truth() {
        Some(wanted) => wanted.then(Vec::new),
        None if node.entries().is_empty() => Some(many(Some(node))),
        None => Some(many(node.get("by"))),
    }
}

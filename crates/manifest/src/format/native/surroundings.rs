//! The keys of a job that say what its steps run in.

use kiln_model::plan::{ExecutorKind, Limits, Network, Pull};
use kiln_stdx::bytes;

use super::read::many;
use super::shape;
use crate::node::{Node, Spanned};
use crate::written::Surroundings;

pub fn surroundings(job: &Node) -> Surroundings {
    let image = job.get("image");
    let of_image = |key| image.and_then(|image| image.get(key)).and_then(Node::text);
    let pulls = [Pull::Missing, Pull::Always, Pull::Never];
    let executors =
        [ExecutorKind::Auto, ExecutorKind::Host, ExecutorKind::Oci, ExecutorKind::Docker];
    let networks = [Network::None, Network::Internet, Network::Host];
    Surroundings {
        in_image: image.is_some(),
        image: image.and_then(Node::text).or_else(|| of_image("name")),
        pull: of_image("pull")
            .and_then(|word| pulls.into_iter().find(|pull| pull.as_str() == word.value)),
        user: of_image("user"),
        executor: word(job, "executor", executors, ExecutorKind::as_str),
        network: word(job, "network", networks, Network::as_str),
        limits: job.get("limits").map(|node| Spanned::new(limits(node), node.span.clone())),
        sandbox: truth(job, "sandbox"),
        privileged: truth(job, "privileged"),
        volumes: many(job.get("volumes")),
    }
}

/// That of `all` which is written so.
fn word<T: Copy>(
    job: &Node,
    key: &str,
    all: impl IntoIterator<Item = T>,
    as_str: fn(T) -> &'static str,
) -> Option<Spanned<T>> {
    let word = job.get(key)?.text()?;
    let found = all.into_iter().find(|one| as_str(*one) == word.value)?;
    Some(Spanned::new(found, word.span))
}

fn truth(job: &Node, key: &str) -> Option<Spanned<bool>> {
    let node = job.get(key)?;
    Some(Spanned::new(node.truth()?, node.span.clone()))
}

/// What is written as `limits`, of a job or of a service.
pub fn limits(node: &Node) -> Limits {
    let text = |key| node.get(key).and_then(Node::text).map(|text| text.value);
    Limits {
        cpu_millis: text("cpu").and_then(|text| shape::processors(&text)),
        memory: text("memory").and_then(|text| bytes::parse(&text).ok()),
        pids: node.get("pids").and_then(Node::int).and_then(|n| u32::try_from(n).ok()),
    }
}

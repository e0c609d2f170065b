//! `cache`: paths that a job may find again, as the paths that will be mounted.
//!
//! A path is written in a manifest that anybody may have pushed, and becomes a place to mount on.
//! So it is one plain path: in the workspace, absolute, or below the home; nothing that leaves its
//! root, and nothing of which another part is meant by somebody else.

use kiln_model::limit::{CACHE_PATH_BYTES_MAX, JOB_CACHES_MAX};
use kiln_model::plan::CacheRule;

use super::template::Filler;
use crate::complaint::Complaints;
use crate::node::{Text, first_line};
use crate::written::Cache;

/// Longest key, in characters: it is shown beside the path.
const KEY_MAX: usize = 500;

/// The rules, their paths in the shortest form: no `.`, no doubled and no last `/`.
pub fn rules(written: &[Cache], filler: &Filler, complaints: &mut Complaints) -> Vec<CacheRule> {
    if let Some(first) = written.get(JOB_CACHES_MAX) {
        let message = format!("a job can keep at most {JOB_CACHES_MAX} paths in `cache`");
        complaints.error(first.path.span.clone(), message, "name the folder that they lie in");
        return Vec::new();
    }
    let mut rules: Vec<CacheRule> = Vec::new();
    for cache in written {
        let n_before = complaints.len();
        let rule = rule(cache, filler, complaints);
        let other = rules.iter().find(|other| overlap(&other.path, &rule.path));
        match other {
            _ if complaints.len() > n_before => {}
            Some(other) => twice(&cache.path, &rule.path, &other.path, complaints),
            None => rules.push(rule),
        }
    }
    rules
}

fn rule(cache: &Cache, filler: &Filler, complaints: &mut Complaints) -> CacheRule {
    let n_before = complaints.len();
    let filled = filler.fill(&cache.path, complaints);
    let path = plain(&filled);
    // An empty text has not the shape of a path, and that was said.
    if complaints.len() == n_before
        && !cache.path.value.trim().is_empty()
        && let Some((message, help)) = fault(&path)
    {
        complaints.error(cache.path.span.clone(), message, help);
    }
    let key = cache.key.as_ref().map(|key| (key, filler.fill(key, complaints)));
    if let Some((written, key)) = &key
        && (key.contains(char::is_control) || key.chars().count() > KEY_MAX)
    {
        let message = format!("a cache's key is one line of at most {KEY_MAX} characters");
        complaints.error(written.span.clone(), message, "");
    }
    CacheRule { path, key: key.map(|(_, key)| key).filter(|key| !key.is_empty()) }
}

/// The path without its parts that say nothing.
fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match path.starts_with('/') {
        true => format!("/{}", parts.join("/")),
        false => parts.join("/"),
    }
}

/// Why a plain path cannot be kept, and the way out.
fn fault(path: &str) -> Option<(String, &'static str)> {
    const FOLDER: &str = "name a folder in it, as in `cache: [target]`";
    let shown = first_line(path, 40);
    let first = path.split('/').next().unwrap_or_default();
    let is_absolute = path.starts_with('/');
    let fault = match path {
        "" => ("the workspace itself cannot be a cache".to_owned(), FOLDER),
        "/" => ("`/` cannot be a cache".to_owned(), FOLDER),
        "~" => ("the whole home folder cannot be a cache".to_owned(), "as in `~/.cargo/registry`"),
        // That was said.
        _ if path.contains('\0') => return None,
        _ if path.contains(char::is_control) => {
            ("a cache's path cannot have control characters".to_owned(), "")
        }
        _ if path.len() > CACHE_PATH_BYTES_MAX => {
            (format!("a cache's path has at most {CACHE_PATH_BYTES_MAX} bytes"), "")
        }
        _ if path.split('/').any(|part| part.len() > 255) => {
            ("a part of the path is longer than a file's name can be (255 bytes)".to_owned(), "")
        }
        _ if path.split('/').any(|part| part == "..") => {
            (format!("`{shown}` has `..`"), "write the path without it")
        }
        _ if !is_absolute && path.split('/').any(|part| part.eq_ignore_ascii_case(".git")) => {
            (format!("`{shown}`: git's own files cannot be a cache"), "name another folder")
        }
        _ if in_kernel(path) => {
            (format!("`{shown}` is the kernel's and cannot be a cache"), "name another folder")
        }
        _ if first.starts_with('~') && first != "~" => (
            format!("`{shown}`: another user's home cannot be a cache"),
            "`~/…` is the home of the user whom the job runs as",
        ),
        _ if first.starts_with('$') => (
            format!("`{shown}`: variables are not known when the plan is made"),
            "write `~/…` for the home, or an absolute path",
        ),
        _ if path.contains('*') => {
            (format!("`{shown}`: a cache is one path, not a pattern"), "name each folder")
        }
        _ => return None,
    };
    Some(fault)
}

fn in_kernel(path: &str) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|kernel| contains(kernel, path))
}

/// Whether `inner` is `outer` or lies in it.
fn contains(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn overlap(one: &str, other: &str) -> bool {
    contains(one, other) || contains(other, one)
}

fn twice(at: &Text, path: &str, other: &str, complaints: &mut Complaints) {
    let (path, other) = (first_line(path, 40), first_line(other, 40));
    let (message, help) = match path == other {
        true => (format!("`{path}` is listed twice"), "remove one of them"),
        false => (
            format!("`{path}` and `{other}`: one lies in the other"),
            "keep the outer one, which has the files of both",
        ),
    };
    complaints.error(at.span.clone(), message, help);
}

//! What jobs may have of this machine, as the configuration file says.
//!
//! ```toml
//! [jobs]                                          # for every project
//! executors = ["host", "oci", "docker", "ssh"]    # that may be used
//! containers = "oci"                              # or "docker": of a job with an image that names none
//! images = ["docker.io/library/*", "oci:**"]      # that may be used
//! pull = "missing"                                # when a job says nothing
//! privileged = false
//! mounts = ["/srv/data:ro", "/srv/out"]           # that may be volumes, with all that is in them
//! docker_socket = false
//! daemon_images = false                           # images of this machine's Docker daemon
//! ssh = ["deploy@*.example.org"]                  # hosts that jobs may reach as kiln's own user
//! networks = ["none", "internet"]
//! network = "internet"                            # when a job says nothing
//! sandbox = "default"                             # or "always", "wished"
//! limits = { memory = "4GB" }                     # when a job says nothing
//! limits_max = { cpu = 8, memory = "16GB", pids = 4000 }
//!
//! [projects.site.jobs]                            # for one, where it differs
//! privileged = true
//! ```
//!
//! The file is looked at for every question, and read again when it is another one. One with a mistake changes
//! nothing and is complained about.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kiln_model::pattern::Glob;
use kiln_model::plan::{ExecutorKind, Limits, Network, Pull};
use kiln_model::policy::{JobPolicy, Opened, PolicyFile, Sandbox};
use kiln_stdx::bytes;
use serde::Deserialize;

use crate::config::{Config, ConfigError, lines};
use crate::report;

/// The section. What is absent is as it was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    executors: Option<Vec<Executor>>,
    containers: Option<Containers>,
    images: Option<Vec<String>>,
    pull: Option<Pull>,
    privileged: Option<bool>,
    mounts: Option<Vec<String>>,
    docker_socket: Option<bool>,
    daemon_images: Option<bool>,
    ssh: Option<Vec<String>>,
    networks: Option<Vec<Network>>,
    network: Option<Network>,
    sandbox: Option<WrittenSandbox>,
    limits: Option<WrittenLimits>,
    limits_max: Option<WrittenLimits>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Executor {
    Host,
    Oci,
    Docker,
    Ssh,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Containers {
    Oci,
    Docker,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenSandbox {
    Always,
    Default,
    Wished,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimits {
    cpu: Option<f64>,
    memory: Option<String>,
    pids: Option<u32>,
}

/// The policies of one data folder.
pub struct Governor {
    usual: JobPolicy,
    path: Option<PathBuf>,
    read: Mutex<Read>,
}

/// What was read the last time, and of which file.
#[derive(Default)]
struct Read {
    stamp: Option<Stamp>,
    rules: Rules,
}

/// Another one, another file: inode, size, when it changed.
type Stamp = Option<(u64, u64, i64, i64)>;

#[derive(Clone, Debug, Default)]
struct Rules {
    all: Written,
    projects: BTreeMap<String, Written>,
    /// As it is written: to find what is to be changed.
    text: String,
}

impl Governor {
    /// What a file says, over what is usual. Fails when there is a file and it cannot be used.
    pub fn read(usual: JobPolicy, path: PathBuf) -> Result<Self, ConfigError> {
        let stamp = stamp(&path);
        let rules = rules(&usual, &path)?;
        let read = Mutex::new(Read { stamp: Some(stamp), rules });
        Ok(Self { usual, path: Some(path), read })
    }

    /// Without a file.
    pub fn usual(usual: JobPolicy) -> Self {
        Self { usual, path: None, read: Mutex::default() }
    }

    /// What jobs of a project may have now.
    pub fn of(&self, project: &str) -> JobPolicy {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path {
            let now = stamp(path);
            if read.stamp != Some(now) {
                read.stamp = Some(now);
                match rules(&self.usual, path) {
                    Ok(rules) => read.rules = rules,
                    Err(error) => report::say(&format!(
                        "{}; what was read before holds",
                        report::whole(&error)
                    )),
                }
            }
        }
        // It was tried when it was read.
        self.usual_with(&read.rules, project)
    }

    fn usual_with(&self, rules: &Rules, project: &str) -> JobPolicy {
        let over =
            |policy: JobPolicy, written: &Written| written.over(policy.clone()).unwrap_or(policy);
        let mut policy = over(self.usual.clone(), &rules.all);
        let mut lines = lines::of_section(&rules.text, "jobs");
        if let Some(own) = rules.projects.get(project) {
            policy = over(policy, own);
            lines.extend(lines::of_section(&rules.text, &format!("projects.{project}.jobs")));
        }
        let file = |path: &PathBuf| PolicyFile { path: path.display().to_string(), lines };
        JobPolicy { file: self.path.as_ref().map(file).map(Box::new), ..policy }
    }
}

fn stamp(path: &std::path::Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

/// What the file says, tried over what is usual.
fn rules(usual: &JobPolicy, path: &std::path::Path) -> Result<Rules, ConfigError> {
    Config::read(path, |config| {
        let all = config.jobs;
        let policy = all.over(usual.clone()).map_err(|why| format!("`[jobs]`: {why}"))?;
        let mut projects = BTreeMap::new();
        for (name, project) in config.projects {
            let tried = project.jobs.over(policy.clone());
            tried.map_err(|why| format!("`[projects.{name}.jobs]`: {why}"))?;
            projects.insert(name, project.jobs);
        }
        // Only to point at lines, so it may be newer than what was read.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Ok(Rules { all, projects, text })
    })
}

impl Written {
    /// The policy with what is written in its place.
    fn over(&self, mut policy: JobPolicy) -> Result<JobPolicy, String> {
        if let Some(executors) = &self.executors {
            policy.executors = executors.iter().map(|executor| executor.kind()).collect();
        }
        if let Some(containers) = self.containers {
            policy.containers = match containers {
                Containers::Oci => ExecutorKind::Oci,
                Containers::Docker => ExecutorKind::Docker,
            };
        }
        if let Some(images) = &self.images {
            policy.images = globs("images", images)?;
        }
        if let Some(ssh) = &self.ssh {
            policy.ssh = globs("ssh", ssh)?;
        }
        if let Some(mounts) = &self.mounts {
            policy.mounts = mounts.iter().map(|text| opened(text)).collect::<Result<_, _>>()?;
        }
        policy.pull = self.pull.unwrap_or(policy.pull);
        policy.privileged = self.privileged.unwrap_or(policy.privileged);
        policy.daemon_images = self.daemon_images.unwrap_or(policy.daemon_images);
        policy.docker_socket = self.docker_socket.unwrap_or(policy.docker_socket);
        if let Some(networks) = &self.networks {
            policy.networks.clone_from(networks);
            policy.or_machines_network = networks.contains(&Network::Host);
        }
        policy.network = match self.network {
            Some(network) => {
                policy.or_machines_network = policy.networks.contains(&Network::Host);
                network
            }
            // Of what is left, the one that gives most.
            None if !policy.networks.contains(&policy.network) => {
                policy.networks.iter().copied().max().unwrap_or(Network::None)
            }
            None => policy.network,
        };
        if self.network.is_some_and(|network| !policy.networks.contains(&network)) {
            return Err("`network` is not among `networks`".to_owned());
        }
        policy.sandbox = match self.sandbox {
            Some(WrittenSandbox::Always) => Sandbox::Always,
            Some(WrittenSandbox::Default) => Sandbox::Default,
            Some(WrittenSandbox::Wished) => Sandbox::Wished,
            None => policy.sandbox,
        };
        if let Some(limits) = &self.limits {
            policy.limits = limits.read("limits")?;
        }
        if let Some(limits) = &self.limits_max {
            policy.limits_max = limits.read("limits_max")?;
        }
        Ok(policy)
    }
}

impl Executor {
    fn kind(self) -> ExecutorKind {
        match self {
            Self::Host => ExecutorKind::Host,
            Self::Oci => ExecutorKind::Oci,
            Self::Docker => ExecutorKind::Docker,
            Self::Ssh => ExecutorKind::Ssh,
        }
    }
}

impl WrittenLimits {
    fn read(&self, key: &str) -> Result<Limits, String> {
        let wrong = |what: &str, why: String| format!("`{key}.{what}`: {why}");
        let cpu_millis =
            self.cpu.map(|cpu| match (10.0..=10_000_000.0).contains(&(cpu * 1000.0)) {
                true => Ok((cpu * 1000.0).round() as u32),
                false => Err(wrong("cpu", "at least 0.01 processors".to_owned())),
            });
        let memory = self.memory.as_deref().map(|text| {
            bytes::parse(text).map_err(|error| wrong("memory", format!("`{text}`: {error}")))
        });
        if self.pids == Some(0) {
            return Err(wrong("pids", "at least one process".to_owned()));
        }
        Ok(Limits {
            cpu_millis: cpu_millis.transpose()?,
            memory: memory.transpose()?,
            pids: self.pids,
        })
    }
}

fn globs(key: &str, patterns: &[String]) -> Result<Vec<Glob>, String> {
    let glob = |pattern: &String| {
        Glob::new(pattern)
            .map_err(|error| format!("`{key}`: `{}`: {error}", pattern.escape_debug()))
    };
    patterns.iter().map(glob).collect()
}

/// `/srv/data`, `/srv/data:ro`.
fn opened(text: &str) -> Result<Opened, String> {
    let (path, read_only) = match text.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (text, false),
    };
    let plain = path.starts_with('/')
        && !path.contains(['\0', ':'])
        && path.split('/').all(|part| !matches!(part, "." | ".."));
    if !plain {
        let shown = text.escape_debug();
        return Err(format!(
            "`mounts`: `{shown}` is not an absolute path such as `/srv/data` or `/srv/data:ro`"
        ));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    Ok(Opened { path: format!("/{}", parts.join("/")), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    /// With its file, which is looked at again as long as it is there.
    fn governor(text: &str) -> Result<(tempfile::NamedTempFile, Governor), ConfigError> {
        let file = written(text);
        let governor = Governor::read(JobPolicy::of_server(), file.path().to_owned())?;
        Ok((file, governor))
    }

    #[test]
    fn a_project_may_have_more_than_others() {
        let governor = governor(
            "[jobs]\nlimits = { cpu = 0.5, memory = \"2GB\" }\nmounts = [\"/srv//x/:ro\"]\n\
             [projects.site.jobs]\nprivileged = true\n[projects.site.keep]\nruns = { for = \"1d\" }\n",
        );
        let (_file, governor) = governor.unwrap();
        let (site, other) = (governor.of("site"), governor.of("other"));
        assert_eq!((site.privileged, other.privileged), (true, false));
        let limits =
            Limits { cpu_millis: Some(500), memory: Some(2_000_000_000), ..Limits::default() };
        assert_eq!((site.limits, other.limits), (limits, limits));
        assert_eq!(site.mounts, [Opened { path: "/srv/x".into(), read_only: true }]);
    }

    #[test]
    fn a_network_that_is_not_allowed_is_not_given_unasked() {
        let (_file, governor) = governor("[jobs]\nnetworks = [\"none\"]\n").unwrap();
        assert_eq!(governor.of("x").network, Network::None);
    }

    #[test]
    fn what_a_file_cannot_mean_is_refused() {
        for (text, word) in [
            ("[jobs]\nprivilege = true", "privilege"),
            ("[jobs]\nexecutors = [\"podman\"]", "podman"),
            ("[jobs]\nmounts = [\"srv\"]", "srv"),
            ("[jobs]\nmounts = [\"/a/../b\"]", ".."),
            ("[jobs]\nimages = [\"[\"]", "images"),
            ("[jobs]\nlimits = { memory = \"lots\" }", "lots"),
            ("[jobs]\nlimits_max = { cpu = 0.0 }", "cpu"),
            ("[jobs]\nlimits = { pids = 0 }", "pids"),
            ("[jobs]\nnetwork = \"host\"", "networks"),
            ("[projects.x.jobs]\nmounts = [\"x\"]", "projects.x.jobs"),
            ("[registry]", "registry"),
        ] {
            let error = report::whole(&governor(text).err().expect(text));
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_with_a_mistake_changes_nothing() {
        let file = written("[jobs]\nprivileged = true\n");
        let governor = Governor::read(JobPolicy::of_server(), file.path().to_owned()).unwrap();
        assert!(governor.of("x").privileged);
        std::fs::write(file.path(), "[jobs]\nprivileged = \"perhaps\"\n").unwrap();
        assert!(governor.of("x").privileged);
        std::fs::write(file.path(), "[jobs]\nprivileged = false # again\n").unwrap();
        assert!(!governor.of("x").privileged);
        std::fs::remove_file(file.path()).unwrap();
        assert!(!governor.of("x").privileged);
    }
}

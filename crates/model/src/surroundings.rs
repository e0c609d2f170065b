//! What the steps of a job run in, as its manifest wishes: which executor, how far apart from the machine,
//! and how much of it they may use. What is granted is the policy's to say.

use serde::{Deserialize, Serialize};

/// What the steps of an attempt run in: what was granted, and what its agent made of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    pub executor: ExecutorKind,
    /// As written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What that name led to: the digest of the image's manifest for this machine's platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Absent: that of the far machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// The machine that they run on over SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl Surroundings {
    /// What there is to tell of them, each with what it is of: `network`, `internet`.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let executor = self.executor.as_str();
        let kind = match (self.sandbox, self.privileged) {
            (true, _) => format!("{executor}, in a sandbox"),
            (_, true) => format!("{executor}, privileged"),
            _ => executor.to_owned(),
        };
        let limits = Some(self.limits.words().join(", ")).filter(|words| !words.is_empty());
        [
            ("executor", Some(kind)),
            ("machine", self.host.clone()),
            ("image", self.image.clone()),
            ("digest", self.image_digest.clone()),
            ("network", self.network.map(|network| network.as_str().to_owned())),
            ("limits", limits),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// How an agent runs the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// As suits the job: `ssh` when it names a host, `oci` when it names an image, `host` otherwise.
    #[default]
    Auto,
    /// Processes of the machine itself.
    Host,
    /// A container that kiln makes itself.
    Oci,
    /// A container that a Docker-compatible daemon makes.
    Docker,
    /// Another machine, over SSH. Wished for by `ssh: user@host`, never as `executor`.
    Ssh,
}

impl ExecutorKind {
    /// As it is written in manifests and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Ssh => "ssh",
        }
    }

    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// What the steps reach over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A loopback of their own and nothing else.
    None,
    /// A network of their own, with a way out.
    Internet,
    /// The machine's own network, with everything that it reaches.
    Host,
}

impl Network {
    /// As it is written in manifests and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internet => "internet",
            Self::Host => "host",
        }
    }
}

/// How much of the machine all processes of a job together may use. `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a processor: 1500 is one and a half. Never 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Bytes of memory, swap included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Limits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// As people read them: `cpu 1.5`, `memory 2.0 GB`, `pids 500`.
    pub fn words(self) -> Vec<String> {
        let cpu = self.cpu_millis.map(|millis| format!("cpu {}", f64::from(millis) / 1000.0));
        let memory = self.memory.map(|n| format!("memory {}", kiln_stdx::bytes::show(n)));
        let pids = self.pids.map(|pids| format!("pids {pids}"));
        [cpu, memory, pids].into_iter().flatten().collect()
    }

    /// These, and where they say nothing, the others.
    pub fn or(self, others: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.or(others.cpu_millis),
            memory: self.memory.or(others.memory),
            pids: self.pids.or(others.pids),
        }
    }

    /// These, none above that of the others.
    pub fn at_most(self, others: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        }
        Self {
            cpu_millis: least(self.cpu_millis, others.cpu_millis),
            memory: least(self.memory, others.memory),
            pids: least(self.pids, others.pids),
        }
    }
}

/// A file or folder of the machine that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// On the machine; absolute, without `.` and `..`.
    pub from: String,
    /// In the container; absolute, without `.` and `..`, never `/`.
    pub to: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Granted by a policy: what is seen lies in this, wherever links in it lead. `None`: not granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// When an image is asked for at its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// When it is not on the machine.
    #[default]
    Missing,
    /// For every job. What has not changed is not fetched again.
    Always,
    /// Never: it is on the machine, or the job fails.
    Never,
}

impl Pull {
    /// As it is written in manifests and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

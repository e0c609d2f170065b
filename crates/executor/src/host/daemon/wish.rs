//! What a daemon is asked to create.

use std::path::Path;

use kiln_model::plan::Limits;
use serde::Serialize;

use super::pause;
use crate::host::bound;
use crate::host::wire::Opening;
use crate::{Container, Daemon, Reach};

/// As the API has it, in as much as it is not what it would be anyway.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Wish<'a> {
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    /// The image's own is the steps' (see `container::user`).
    user: &'static str,
    entrypoint: [String; 1],
    cmd: [&'static str; 0],
    working_dir: &'static str,
    labels: Labels<'a>,
    stop_signal: &'static str,
    healthcheck: Healthcheck,
    host_config: HostConfig<'a>,
}

/// By which people find what is kiln's.
#[derive(Serialize)]
struct Labels<'a> {
    #[serde(rename = "kiln.attempt")]
    attempt: String,
    #[serde(rename = "kiln.data")]
    data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig<'a> {
    auto_remove: bool,
    network_mode: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra_hosts: Vec<String>,
    mounts: [BindMount<'a>; 1],
    privileged: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cap_drop: Vec<&'static str>,
    security_opt: Vec<&'static str>,
    userns_mode: &'static str,
    log_config: LogConfig,
    #[serde(flatten)]
    limits: Held,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindMount<'a> {
    r#type: &'static str,
    source: &'a Path,
    target: &'static str,
    read_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Held {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    /// Both together: no swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_swap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nano_cpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids_limit: Option<u64>,
}

impl Held {
    fn new(limits: &Limits) -> Self {
        Self {
            memory: limits.memory,
            memory_swap: limits.memory,
            nano_cpus: limits.cpu_millis.map(|millis| u64::from(millis) * 1_000_000),
            // Process 1 is kiln's.
            pids_limit: limits.pids.map(|pids| u64::from(pids) + 1),
        }
    }
}

/// As people see it in `docker ps`: the attempt, which of the servers that may count the same, and which init:
/// the container of the one before may be on its way out.
pub(super) fn name(spec: &Opening) -> String {
    format!("kiln-{}-{}", bound::name(spec), std::process::id())
}

/// `host` is the container whose network it shares.
pub(super) fn body(
    daemon: &Daemon,
    wanted: &Container,
    spec: &Opening,
    folder: &Path,
    host: Option<&str>,
) -> Vec<u8> {
    let privileged = wanted.privileged;
    let network_mode = match (&spec.network.reach, host) {
        (_, Some(name)) => format!("container:{name}"),
        (Reach::Host, None) => "host".to_owned(),
        (Reach::Bridge, None) => "bridge".to_owned(),
        (Reach::None | Reach::Internet { .. } | Reach::Of(_), None) => "none".to_owned(),
    };
    let names = spec.network.names.iter().filter(|_| host.is_none());
    let data = spec.attempt_dir.to_string_lossy();
    let wish = Wish {
        image: &daemon.image,
        // With another's network comes its name.
        hostname: host.is_none().then_some(wanted.hostname.as_str()),
        user: "0:0",
        entrypoint: [format!("{}/{}", pause::FOLDER, pause::PROGRAM)],
        cmd: [],
        working_dir: "/",
        labels: Labels { attempt: spec.attempt.to_string(), data: &data },
        // It heeds no other.
        stop_signal: "SIGKILL",
        healthcheck: Healthcheck { test: ["NONE"] },
        host_config: HostConfig {
            auto_remove: true,
            network_mode,
            extra_hosts: names.map(|(name, address)| format!("{name}:{address}")).collect(),
            mounts: [BindMount {
                r#type: "bind",
                source: folder,
                target: pause::FOLDER,
                read_only: true,
            }],
            privileged,
            cap_drop: if privileged { Vec::new() } else { vec!["ALL"] },
            // What SELinux lets containers see is not what kiln puts into them.
            security_opt: vec!["label=disable"],
            userns_mode: "host",
            log_config: LogConfig { r#type: "none" },
            limits: Held::new(&spec.limits),
        },
    };
    serde_json::to_vec(&wish).expect("a wish is plain data")
}

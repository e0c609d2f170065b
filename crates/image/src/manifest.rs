//! What an image says of itself: its index, its manifest, its configuration.
//!
//! Source: github.com/opencontainers/image-spec (v1.1) and Docker's schema 2, which have the same shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::layer::Digest;
use serde::{Deserialize, Serialize};

use crate::ImageError;
use crate::limit::LAYERS_MAX;

/// An image that is on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Of the manifest for this platform: names the image by its content.
    pub digest: Digest,
    /// The layers by the digest of their uncompressed archive, lowest first.
    pub layers: Vec<Digest>,
    pub config: Config,
    /// The socket of the daemon that has the layers, and runs the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<PathBuf>,
}

/// How the image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub env: BTreeMap<String, String>,
    /// `1000`, `node`, `0:0`, `user:group`; empty: root.
    pub user: String,
    /// Absolute; empty: `/`.
    pub directory: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `6379/tcp`
    pub ports: Vec<String>,
    pub health: Option<HealthCheck>,
    /// The number of the signal that asks its command to end; none: TERM.
    pub stop_signal: Option<i32>,
}

/// A command that succeeds when the container is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// A program with its arguments.
    pub argv: Vec<String>,
    pub every: Duration,
    pub timeout: Duration,
    pub n_tries: u32,
}

/// What a digest leads to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

/// One of the two things that a name leads to.
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Either {
    #[serde(default, rename = "schemaVersion")]
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Descriptor {
    /// Its digest, checked.
    pub fn sha256(&self, name: &str) -> Result<Digest, ImageError> {
        let hex = self.digest.strip_prefix("sha256:").map(Digest::new);
        match hex {
            Some(Ok(digest)) => Ok(digest),
            _ => {
                let shown: String = self.digest.chars().take(80).collect();
                Err(ImageError::damaged(name, format!("`{shown}` is not a SHA-256 digest")))
            }
        }
    }
}

impl Document {
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let wrong = |why: String| ImageError::damaged(name, why);
        let either: Either = serde_json::from_slice(bytes)
            .map_err(|cause| wrong(format!("its manifest cannot be read: {cause}")))?;
        match either {
            Either { manifests: Some(manifests), .. } => Ok(Self::Index(manifests)),
            Either { config: Some(config), layers: Some(layers), .. } => {
                if layers.len() > LAYERS_MAX {
                    let n = layers.len();
                    return Err(wrong(format!("it has {n} layers; {LAYERS_MAX} are the most")));
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            Either { schema_version: 1, .. } => Err(wrong(
                "its manifest has Docker's schema 1, which is obsolete; push it again".to_owned(),
            )),
            _ => Err(wrong("its manifest is neither an image nor an index".to_owned())),
        }
    }
}

/// The platform of this machine, in the words of Go, which images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry of an index for this machine.
pub(crate) fn choose<'a>(
    name: &str,
    manifests: &'a [Descriptor],
) -> Result<&'a Descriptor, ImageError> {
    let here = architecture();
    let fits = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == here)
    };
    // An image for one platform need not say which.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    // Of several variants (`v6`, `v7`, `v8`) the one that says nothing, or the highest.
    let best = manifests.iter().filter(fits).max_by_key(|entry| {
        let variant = entry.platform.as_ref().and_then(|platform| platform.variant.clone());
        (variant.is_none(), variant)
    });
    best.ok_or_else(|| {
        let platform = |entry: &Descriptor| {
            let platform = entry.platform.as_ref()?;
            // Attestations of builders are entries without a platform.
            (platform.os != "unknown").then(|| format!("{}/{}", platform.os, platform.architecture))
        };
        let mut there: Vec<String> = manifests.iter().filter_map(platform).take(12).collect();
        there.sort();
        there.dedup();
        let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
        ImageError::Platform { name: name.to_owned(), wanted: format!("linux/{here}"), there }
    })
}

/// The configuration as it is stored.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    config: Option<Run>,
    rootfs: RootFs,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// What a daemon says of an image, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfDaemon {
    #[serde(default)]
    config: Option<Run>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    healthcheck: Option<WrittenHealth>,
    stop_signal: Option<String>,
}

impl Run {
    /// What of it no process could be given.
    fn with_nul(&self) -> Option<String> {
        let has = |text: &String| text.contains('\0');
        let any = |texts: &Option<Vec<String>>| texts.iter().flatten().any(has);
        let variable = self.env.iter().flatten().find(|pair| has(pair));
        match variable.map(|pair| pair.split('=').next().unwrap_or_default()) {
            Some(name) => Some(format!("variable `{}`", name.escape_debug())),
            None if self.user.as_ref().is_some_and(has) => Some("user".to_owned()),
            None if self.working_dir.as_ref().is_some_and(has) => Some("folder".to_owned()),
            None if any(&self.entrypoint) || any(&self.cmd) => Some("command".to_owned()),
            None => None,
        }
    }
}

/// Times in nanoseconds; 0: the default.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WrittenHealth {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    retries: u32,
}

impl Image {
    /// From a configuration that was checked against its digest.
    pub(crate) fn read(name: &str, digest: Digest, bytes: &[u8]) -> Result<Self, ImageError> {
        let wrong = |why: String| ImageError::damaged(name, why);
        let written: Written = serde_json::from_slice(bytes)
            .map_err(|cause| wrong(format!("its configuration cannot be read: {cause}")))?;
        let here = architecture();
        let said = (written.os.as_str(), written.architecture.as_str());
        if !matches!(said, ("" | "linux", "")) && said != ("linux", here) {
            return Err(ImageError::Platform {
                name: name.to_owned(),
                wanted: format!("linux/{here}"),
                there: format!("{}/{}", said.0, said.1),
            });
        }
        let layer = |id: &String| {
            let hex = id.strip_prefix("sha256:").map(Digest::new);
            hex.and_then(Result::ok)
                .ok_or_else(|| wrong("a layer's digest is not SHA-256".to_owned()))
        };
        let layers = written.rootfs.diff_ids.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        if layers.len() > LAYERS_MAX {
            let n = layers.len();
            return Err(wrong(format!("it has {n} layers; {LAYERS_MAX} are the most")));
        }
        let config = checked(name, written.config)?;
        Ok(Self { digest, layers, config, daemon: None })
    }

    /// From what a daemon says of it.
    pub(crate) fn of_daemon(
        name: &str,
        socket: &Path,
        digest: Digest,
        said: &[u8],
    ) -> Result<Self, ImageError> {
        let said: OfDaemon = serde_json::from_slice(said).map_err(|cause| {
            ImageError::damaged(name, format!("what the daemon says of it cannot be read: {cause}"))
        })?;
        let config = checked(name, said.config)?;
        Ok(Self { digest, layers: Vec::new(), config, daemon: Some(socket.to_owned()) })
    }
}

fn checked(name: &str, run: Option<Run>) -> Result<Config, ImageError> {
    let run = run.unwrap_or_default();
    match run.with_nul() {
        Some(what) => {
            let why = format!("its {what} has a NUL character, which no program can be given");
            Err(ImageError::damaged(name, why))
        }
        None => Ok(config(run)),
    }
}

fn config(run: Run) -> Config {
    let pairs = run.env.unwrap_or_default();
    let pair = |pair: &String| {
        let (key, value) = pair.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    Config {
        env: pairs.iter().filter_map(pair).collect(),
        user: run.user.unwrap_or_default(),
        directory: run.working_dir.unwrap_or_default(),
        entrypoint: run.entrypoint.unwrap_or_default(),
        command: run.cmd.unwrap_or_default(),
        ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        health: run.healthcheck.and_then(health),
        stop_signal: run.stop_signal.as_deref().and_then(signal),
    }
}

/// `SIGINT`, `INT` or `2` as a number; what is none is as if nothing were said.
fn signal(text: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let text = text.trim().to_ascii_uppercase();
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    match NAMES.iter().position(|known| *known == name) {
        Some(at) => i32::try_from(at + 1).ok(),
        None => name.parse().ok().filter(|number| (1..=31).contains(number)),
    }
}

fn health(written: WrittenHealth) -> Option<HealthCheck> {
    let test = written.test?;
    let argv = match (test.first()?.as_str(), &test[1..]) {
        ("CMD", argv) if !argv.is_empty() => argv.to_vec(),
        ("CMD-SHELL", [script]) => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        _ => return None,
    };
    // Docker's defaults.
    let or = |nanos: u64, seconds: u64| match nanos {
        0 => Duration::from_secs(seconds),
        nanos => Duration::from_nanos(nanos),
    };
    Some(HealthCheck {
        argv,
        every: or(written.interval, 30),
        timeout: or(written.timeout, 30),
        n_tries: if written.retries == 0 { 3 } else { written.retries },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn a_stop_signal_is_a_name_or_a_number() {
        for (text, number) in [("SIGINT", 2), ("quit", 3), ("28", 28), (" SIGWINCH ", 28)] {
            assert_eq!(signal(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "SIGRTMIN+3", "0", "99", "-9", "TERMINATE"] {
            assert_eq!(signal(text), None, "{text}");
        }
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen() {
        let entry = |os: &str, arch: &str, c: char| serde_json::json!({"digest": digest(c), "size": 1, "platform": {"os": os, "architecture": arch}});
        let index = |entries: Vec<serde_json::Value>| {
            let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
            match Document::read("i", text.as_bytes()).unwrap() {
                Document::Index(entries) => entries,
                Document::Manifest(_) => panic!("it is an index"),
            }
        };
        let all = index(vec![
            entry("unknown", "unknown", 'a'),
            entry("windows", architecture(), 'b'),
            entry("linux", architecture(), 'c'),
            entry("linux", "mips", 'd'),
        ]);
        assert_eq!(choose("i", &all).unwrap().digest, digest('c'));
        let other = index(vec![entry("linux", "mips", 'd'), entry("unknown", "unknown", 'a')]);
        let error = choose("i", &other).unwrap_err().to_string();
        assert!(error.ends_with("it is there for linux/mips"), "{error}");
    }

    #[test]
    fn a_configuration_says_how_to_run() {
        let text = serde_json::json!({
            "os": "linux", "architecture": architecture(),
            "rootfs": {"type": "layers", "diff_ids": [digest('a')]},
            "config": {"Env": ["A=1=2", "broken", "=x"], "User": "1000", "WorkingDir": "/app", "Cmd": ["x"],
                "Entrypoint": null, "ExposedPorts": {"80/tcp": {}},
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000u64}},
        });
        let digest = Digest::new("b".repeat(64)).unwrap();
        let image = Image::read("i", digest, text.to_string().as_bytes()).unwrap();
        assert_eq!(image.config.env, BTreeMap::from([("A".to_owned(), "1=2".to_owned())]));
        assert_eq!((image.config.user.as_str(), image.config.directory.as_str()), ("1000", "/app"));
        assert_eq!(image.config.ports, ["80/tcp"]);
        let health = image.config.health.unwrap();
        assert_eq!((health.argv.len(), health.every.as_secs(), health.n_tries), (3, 2, 3));
    }

    #[test]
    fn a_configuration_that_no_process_could_be_given_is_refused() {
        for (run, why) in [
            (serde_json::json!({"Env": ["A=b", "X\0=1"]}), "variable `X\\0`"),
            (serde_json::json!({"User": "a\0b"}), "user"),
            (serde_json::json!({"WorkingDir": "/\0"}), "folder"),
            (serde_json::json!({"Cmd": ["a\0"]}), "command"),
        ] {
            let text = serde_json::json!({"rootfs": {"diff_ids": []}, "config": run}).to_string();
            let digest = Digest::new("b".repeat(64)).unwrap();
            let error = Image::read("i", digest, text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(&format!("its {why} has a NUL")), "{error}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let many = vec![serde_json::json!({"digest": digest('a'), "size": 1}); LAYERS_MAX + 1];
        let hostile =
            serde_json::json!({"schemaVersion": 2, "config": many[0], "layers": many}).to_string();
        for (text, why) in [
            ("{", "cannot be read"),
            ("{}", "neither"),
            (r#"{"schemaVersion": 1}"#, "schema 1"),
            (&hostile, "257 layers"),
        ] {
            let error = Document::read("i", text.as_bytes()).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

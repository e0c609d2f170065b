//! Where this machine's Docker daemon is: where Docker's own command line would look for it.
//!
//! Source: docs.docker.com/engine/manage-resources/contexts, docs.podman.io (podman-system-service).

use std::path::{Path, PathBuf};

use kiln_image::DockerHost;
use serde_json::Value;

/// What says otherwise than usual, in the order in which it counts.
struct Said {
    docker_host: Option<String>,
    docker_context: Option<String>,
    /// Docker's own folder (`~/.docker`).
    config: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, where daemons of one user listen.
    runtime: Option<PathBuf>,
}

/// As the environment says, and Docker's configuration.
pub fn host() -> DockerHost {
    let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    Said {
        docker_host: text("DOCKER_HOST"),
        docker_context: text("DOCKER_CONTEXT"),
        config: config_folder(),
        runtime: text("XDG_RUNTIME_DIR").map(PathBuf::from),
    }
    .host()
}

/// Its socket, if it has one here.
pub fn socket() -> Option<String> {
    match host() {
        DockerHost::Socket(path) => path.into_os_string().into_string().ok(),
        DockerHost::Elsewhere(_) => None,
    }
}

/// `$DOCKER_CONFIG`, or `~/.docker`.
pub fn config_folder() -> Option<PathBuf> {
    let docker = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    docker.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))
}

impl Said {
    fn host(&self) -> DockerHost {
        if let Some(host) = &self.docker_host {
            return at(host, "DOCKER_HOST");
        }
        if let Some((context, host)) = self.of_context() {
            return at(&host, &format!("Docker's context `{context}`"));
        }
        let mut usual: Vec<PathBuf> = vec!["/var/run/docker.sock".into()];
        let of_user = self.runtime.iter();
        usual.extend(of_user.clone().map(|folder| folder.join("docker.sock")));
        usual.extend(of_user.map(|folder| folder.join("podman/podman.sock")));
        usual.push("/run/podman/podman.sock".into());
        match usual.into_iter().find(|socket| socket.exists()) {
            Some(socket) => DockerHost::Socket(socket),
            None => DockerHost::default(),
        }
    }

    /// The chosen context and its host. What cannot be read says nothing: the usual places are tried.
    fn of_context(&self) -> Option<(String, String)> {
        let config = self.config.as_deref()?;
        let chosen = self.docker_context.clone().or_else(|| {
            let config = read(&config.join("config.json"))?;
            Some(config["currentContext"].as_str()?.to_owned())
        });
        let chosen = chosen.filter(|name| !name.is_empty() && name != "default")?;
        // Each is in a folder that is named by a digest of its name.
        let folders = std::fs::read_dir(config.join("contexts/meta")).ok()?;
        let metas = folders.flatten().filter_map(|folder| read(&folder.path().join("meta.json")));
        let meta = metas.into_iter().find(|meta| meta["Name"] == *chosen)?;
        let host = meta["Endpoints"]["docker"]["Host"].as_str()?.to_owned();
        Some((chosen, host))
    }
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn at(host: &str, said_by: &str) -> DockerHost {
    if let Some(path) = host.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
        return DockerHost::Socket(path.into());
    }
    // Not the whole of it: there may be a password in it.
    let kind: String = host.chars().take_while(|c| c.is_ascii_alphanumeric()).take(12).collect();
    DockerHost::Elsewhere(format!("{said_by} leads to a daemon by `{kind}:`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(config: Option<&Path>) -> Said {
        Said {
            docker_host: None,
            docker_context: None,
            config: config.map(Path::to_owned),
            runtime: None,
        }
    }

    fn socket(path: &Path) -> DockerHost {
        DockerHost::Socket(path.to_owned())
    }

    #[test]
    fn the_environment_counts_before_the_context_and_that_before_the_usual_places() {
        let config = tempfile::tempdir().unwrap();
        let meta = config.path().join("contexts/meta/abc");
        std::fs::create_dir_all(&meta).unwrap();
        let text =
            r#"{"Name": "mine", "Endpoints": {"docker": {"Host": "unix:///run/mine.sock"}}}"#;
        std::fs::write(meta.join("meta.json"), text).unwrap();
        let other = meta.with_file_name("def");
        std::fs::create_dir_all(&other).unwrap();
        let text = r#"{"Name": "far", "Endpoints": {"docker": {"Host": "ssh://me@far"}}}"#;
        std::fs::write(other.join("meta.json"), text).unwrap();
        std::fs::write(config.path().join("config.json"), r#"{"currentContext": "mine"}"#).unwrap();

        let mut said = said(Some(config.path()));
        assert_eq!(said.host(), socket(Path::new("/run/mine.sock")));
        said.docker_context = Some("far".to_owned());
        let DockerHost::Elsewhere(why) = said.host() else { panic!("{:?}", said.host()) };
        assert_eq!(why, "Docker's context `far` leads to a daemon by `ssh:`");
        said.docker_host = Some("unix:///x.sock".to_owned());
        assert_eq!(said.host(), socket(Path::new("/x.sock")));
        said.docker_host = Some("tcp://user:secret@host:2376".to_owned());
        let DockerHost::Elsewhere(why) = said.host() else { panic!("{:?}", said.host()) };
        assert!(why.contains("`tcp:`") && !why.contains("secret"), "{why}");
    }

    #[test]
    fn a_daemon_of_one_user_is_found_where_there_is_no_other() {
        let runtime = tempfile::tempdir().unwrap();
        std::fs::create_dir(runtime.path().join("podman")).unwrap();
        std::fs::write(runtime.path().join("podman/podman.sock"), "").unwrap();
        let mut said = said(None);
        said.runtime = Some(runtime.path().to_owned());
        if !Path::new("/var/run/docker.sock").exists() {
            assert_eq!(said.host(), socket(&runtime.path().join("podman/podman.sock")));
        }
    }
}

//! Images that a Docker daemon of this machine has, by their name there: asked for over its socket. Their
//! files are read as `docker save` writes them, or stay with the daemon that runs them.
//!
//! Source: docs.docker.com/reference/api/engine (images: inspect, get, create).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_model::layer::Digest;
use kiln_stdx::base64;
use kiln_stdx::http::{self, Answer, Request};
use serde::Deserialize;
use tokio::sync::watch;

use crate::blob::Budget;
use crate::credentials::Login;
use crate::images::LayerStore;
use crate::limit::CONFIG_BYTES_MAX;
use crate::pulled::Pulled;
use crate::reference::Named;
use crate::{Files, Image, ImageError, Progress, archive};

/// A daemon that packs a large image, or unpacks one, is silent for a while.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Where Docker's own command line would look for its daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerHost {
    Socket(PathBuf),
    /// Not on this machine. Why, in words.
    Elsewhere(String),
}

impl Default for DockerHost {
    fn default() -> Self {
        Self::Socket("/var/run/docker.sock".into())
    }
}

impl DockerHost {
    /// # Errors
    ///
    /// When it is not on this machine.
    pub fn socket(&self) -> Result<&Path, ImageError> {
        match self {
            Self::Socket(path) => Ok(path),
            Self::Elsewhere(why) => Err(ImageError::Other(format!(
                "{why}, and kiln must be on the machine of the Docker daemon that it uses: name its socket with \
                 DOCKER_HOST=unix://…, or run the image without Docker (`executor: oci`)"
            ))),
        }
    }
}

/// The daemon that listens at `socket`.
pub(crate) struct Daemon<'a> {
    pub socket: &'a Path,
    /// As it was written.
    pub name: &'a str,
    pub named: &'a Named,
}

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

impl Daemon<'_> {
    /// Names the image by its content, as an archive of it would.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        Ok(self.inspect()?.0)
    }

    /// The image as the daemon runs it: without layers, which are the daemon's.
    pub fn image(&self) -> Result<Image, ImageError> {
        let (digest, inspected) = self.inspect()?;
        Image::of_daemon(self.name, self.socket, digest, &inspected)
    }

    /// Its digest, and all that the daemon says of it.
    fn inspect(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        let answer = self.of_image("json")?;
        let inspected = answer.whole(CONFIG_BYTES_MAX).map_err(|cause| self.away(&cause))?;
        let id = serde_json::from_slice::<Inspected>(&inspected).ok();
        let id = id.and_then(|said| Digest::new(said.id.strip_prefix("sha256:")?).ok());
        let none = || ImageError::damaged(self.name, "the daemon does not say its digest");
        Ok((id.ok_or_else(none)?, inspected))
    }

    /// Reads it and unpacks the layers that are not there. `folder` is where it may lie meanwhile. Blocking.
    pub fn load(
        &self,
        folder: &Path,
        (store, budget): (&dyn LayerStore, &Budget),
    ) -> Result<Image, ImageError> {
        let mut answer = self.of_image("get")?;
        let (path, mut file) = temporary(folder).map_err(|cause| self.away(&cause))?;
        // Gone with its last descriptor, whatever happens.
        let _ = std::fs::remove_file(&path);
        io::copy(&mut answer, &mut file).map_err(|cause| self.away(&cause))?;
        let saved = Saved(file);
        let wanted = self.reference();
        archive::load(self.name, &saved, Path::new("image"), Some(&wanted), (store, budget))
    }

    /// Has the daemon fetch it. `go_on` is asked between two words of the daemon.
    pub fn pull(
        &self,
        login: Option<&Login>,
        progress: &watch::Sender<Progress>,
        go_on: impl Fn() -> bool,
    ) -> Result<(), ImageError> {
        let Named { registry, repository, tag, digest } = self.named;
        let wanted = match (digest, tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let from = http::escaped(&format!("{registry}/{repository}"));
        let path = format!("/images/create?fromImage={from}&tag={}", http::escaped(&wanted));
        let auth = login.map(|login| registry_auth(registry, login));
        let headers: Vec<(&str, &str)> =
            auth.iter().map(|auth| ("X-Registry-Auth", &**auth)).collect();
        let request = Request { method: "POST", path: &path, headers: &headers, body: &[] };
        let answer = self.ask(&request)?;
        let mut pulled = Pulled::default();
        for line in BufReader::new(answer).lines() {
            if !go_on() {
                return Err(ImageError::Other("given up".to_owned()));
            }
            let line = line.map_err(|cause| self.away(&cause))?;
            if let Some(why) = pulled.heed(&line) {
                return Err(self.refused(&why));
            }
            progress.send_replace(pulled.progress());
        }
        Ok(())
    }

    /// As the daemon writes it: without its own registry and folder.
    fn reference(&self) -> String {
        let full = self.named.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }

    fn of_image(&self, what: &str) -> Result<Answer, ImageError> {
        let path = format!("/images/{}/{what}", self.reference());
        self.ask(&Request { method: "GET", path: &path, ..Request::default() })
    }

    fn ask(&self, request: &Request<'_>) -> Result<Answer, ImageError> {
        let answer =
            http::ask(self.socket, request, SILENCE_MAX).map_err(|cause| self.away(&cause))?;
        match (answer.status, request.method) {
            (200, _) => Ok(answer),
            (404, "GET") => Err(ImageError::Unknown {
                name: self.name.to_owned(),
                why: format!("the daemon at `{}` has none of that name", self.socket.display()),
            }),
            (status, _) => {
                let said = answer.whole(CONFIG_BYTES_MAX).unwrap_or_default();
                let said = serde_json::from_slice::<Said>(&said).map(|said| said.message);
                Err(self.refused(&said.unwrap_or_else(|_| format!("status {status}"))))
            }
        }
    }

    fn refused(&self, why: &str) -> ImageError {
        // The daemon has but words for it.
        if ["denied", "no basic auth", "unauthorized"].iter().any(|word| why.contains(word)) {
            return ImageError::Refused {
                registry: self.named.registry.clone(),
                name: self.name.to_owned(),
                why: format!("the daemon says: {}", why.trim()),
            };
        }
        let (name, socket) = (self.name.to_owned(), self.socket.display());
        let said = format!("the daemon at `{socket}` says: {}", why.trim());
        // Of the network, and not of the image.
        if ["dial tcp", "i/o timeout", "x509", "deadline exceeded"].iter().any(|w| why.contains(w))
        {
            let registry = self.named.registry.clone();
            return ImageError::Away { registry, name, why: said };
        }
        ImageError::Unknown { name, why: said }
    }

    fn away(&self, cause: &io::Error) -> ImageError {
        let socket = self.socket.display();
        let name = self.name;
        ImageError::Other(format!(
            "the Docker daemon at `{socket}` cannot be asked for `{name}`: {cause}; start it, or name its socket \
             with DOCKER_HOST=unix://…"
        ))
    }
}

/// A login as a daemon takes it.
fn registry_auth(registry: &str, login: &Login) -> String {
    let secret = login.password.expose();
    // What `docker login` keeps when a registry gives tokens.
    let said = match login.user.as_str() {
        "<token>" => serde_json::json!({ "identitytoken": secret, "serveraddress": registry }),
        user => {
            serde_json::json!({ "username": user, "password": secret, "serveraddress": registry })
        }
    };
    base64::encode(said.to_string().as_bytes()).replace('+', "-").replace('/', "_")
}

fn temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    let path = folder.join(format!(".saved-{}-{thread}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    Ok((path, file))
}

/// One file, under any name.
struct Saved(File);

impl Files for Saved {
    fn open(&self, _: &Path) -> io::Result<File> {
        self.0.try_clone()
    }
}

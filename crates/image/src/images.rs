//! From a name to an image whose layers are all there.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_model::layer::Digest;
use kiln_stdx::fs::FsError;
use kiln_stdx::{Clock, SystemClock};
use tokio::sync::watch;

use crate::blob::Budget;
use crate::daemon::{Daemon, DockerHost};
use crate::known::{Entry, Known};
use crate::layout::Layout;
use crate::limit::UNPACKED_BYTES_MAX;
use crate::reference::{Named, Reference};
use crate::registry::Endpoint;
use crate::turn::{Turn, Turns};
use crate::{Credentials, Files, Image, ImageError, archive};

/// Where layers are kept, unpacked.
pub trait LayerStore: Send + Sync + 'static {
    /// Whether a layer is there, whole. `diff_id` is the digest of its uncompressed archive.
    fn has(&self, diff_id: &Digest) -> bool;

    /// Unpacks an uncompressed tar of OCI's kind. The layer must appear whole or not at all, and not when
    /// reading fails; two at once of the same layer are harmless. Errors are words.
    fn unpack(&self, diff_id: &Digest, archive: &mut (dyn Read + Send)) -> Result<(), String>;
}

/// When a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// When the image is not there.
    #[default]
    Missing,
    /// Each time, whether the name leads to another image now.
    Always,
    Never,
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Hosts to ask before a registry, in order.
    pub mirrors: HashMap<String, Vec<String>>,
    /// Hosts spoken to without TLS, besides those on this machine.
    pub plain: Vec<String>,
    pub credentials: Credentials,
    pub docker: DockerHost,
    /// Bytes that all layers of one image may unpack to; `None`: as much as the largest known ones.
    pub image_bytes_max: Option<u64>,
}

/// How far a pull has come: bytes as they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub n_layers: usize,
    pub n_bytes: u64,
    pub of_bytes: u64,
    /// What came over the network, of all that.
    pub n_fetched: u64,
}

/// The images of one machine.
pub struct Images {
    known: Known,
    store: Arc<dyn LayerStore>,
    registries: Registries,
    turns: Arc<Turns>,
}

/// Says so when nobody waits any more.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Registries {
    /// Docker's rule: what is on this machine needs no TLS.
    pub(crate) fn is_plain(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => name,
            _ => host,
        };
        let here = name == "localhost"
            || name
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        here || self.plain.iter().any(|plain| plain == host)
    }
}

impl Images {
    /// `folder` holds what is known of names; the layers are in `store`.
    pub fn open(
        folder: &Path,
        store: Arc<dyn LayerStore>,
        registries: Registries,
    ) -> Result<Self, FsError> {
        // Once for the process; a second try is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            known: Known::open(folder.to_owned())?,
            store,
            registries,
            turns: Arc::new(Turns::open(&folder.join("turns"))?),
        })
    }

    /// The image that a name leads to, its layers fetched where they are missing. `files` is where images
    /// on disk are looked for.
    ///
    /// Dropping the future stops the fetching; layers that are whole by then stay.
    pub async fn get(
        &self,
        name: &str,
        policy: Policy,
        files: Arc<dyn Files>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let reference: Reference = name.parse()?;
        match reference {
            Reference::Registry(named) => self.pulled(&named, policy, progress).await,
            Reference::Daemon(named) => self.of_daemon(name, named).await,
            on_disk => {
                let (store, name) = (self.store.clone(), name.to_owned());
                let budget = self.budget();
                let load = move || match on_disk {
                    Reference::Layout { path, tag } => {
                        let layout = Layout { name: &name, files: &*files, path: &path };
                        layout.load(tag.as_deref(), (&*store, &budget))
                    }
                    Reference::Archive { path, name: wanted } => {
                        let into = (&*store, &budget);
                        archive::load(&name, &*files, &path, wanted.as_deref(), into)
                    }
                    Reference::Registry(_) | Reference::Daemon(_) => unreachable!("matched above"),
                };
                let loaded = tokio::task::spawn_blocking(load).await;
                loaded.map_err(|panic| ImageError::Other(panic.to_string()))?
            }
        }
    }

    /// The daemon is asked each time what the name leads to, and only gives what is not here.
    async fn of_daemon(&self, name: &str, named: Named) -> Result<Image, ImageError> {
        let (known, store) = (self.known.clone(), self.store.clone());
        let (budget, name) = (self.budget(), name.to_owned());
        let docker = self.registries.docker.clone();
        let get = move || {
            let daemon = Daemon { socket: docker.socket()?, name: &name, named: &named };
            let digest = daemon.digest()?;
            let full = format!("docker-daemon:{named}");
            let there = |image: &Image| {
                image.digest == digest && image.layers.iter().all(|layer| store.has(layer))
            };
            if let Some(entry) = known.get(&full).filter(|entry| there(&entry.image)) {
                return Ok(entry.image);
            }
            let image = daemon.load(known.folder(), (&*store, &budget))?;
            let entry = Entry { name: full, image: image.clone(), pulled_at: SystemClock.now() };
            // What cannot be remembered is fetched again.
            let _ = known.set(&entry);
            Ok(image)
        };
        let got = tokio::task::spawn_blocking(get).await;
        got.map_err(|panic| ImageError::Other(panic.to_string()))?
    }

    /// The image that a name leads to with this machine's Docker daemon, which fetches it where it is missing
    /// and runs it itself. It has no layers here.
    ///
    /// Dropping the future stops the fetching.
    pub async fn with_daemon(
        &self,
        name: &str,
        policy: Policy,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let (named, policy) = match name.parse()? {
            Reference::Registry(named) => (named, policy),
            Reference::Daemon(named) => (named, Policy::Never),
            Reference::Layout { .. } | Reference::Archive { .. } => {
                return Err(ImageError::Other(format!(
                    "`{name}` is an image in files, which no Docker daemon has; `executor: oci` runs it, or \
                     `docker load` gives it to the daemon"
                )));
            }
        };
        let (registries, name) = (self.registries.clone(), name.to_owned());
        let (wanted, progress) = (Arc::new(AtomicBool::new(true)), progress.clone());
        let _unwanted = Unwanted(wanted.clone());
        let get = move || {
            let daemon = Daemon { socket: registries.docker.socket()?, name: &name, named: &named };
            // A digest leads to the same image for ever.
            let ask = policy == Policy::Always && named.digest.is_none();
            match daemon.image() {
                Err(ImageError::Unknown { .. }) if policy == Policy::Never => {
                    Err(ImageError::Absent { name: name.clone() })
                }
                Err(ImageError::Unknown { .. }) => Ok(()),
                Ok(_) if ask => Ok(()),
                other => return other,
            }?;
            let login = registries.credentials.of(&named.registry).map_err(ImageError::Other)?;
            daemon.pull(login.as_ref(), &progress, || wanted.load(Ordering::Relaxed))?;
            daemon.image()
        };
        let got = tokio::task::spawn_blocking(get).await;
        got.map_err(|panic| ImageError::Other(panic.to_string()))?
    }

    fn budget(&self) -> Budget {
        Budget::new(self.registries.image_bytes_max.unwrap_or(UNPACKED_BYTES_MAX))
    }

    /// What a name led to the last time, if all of it is still there.
    pub fn present(&self, name: &str) -> Option<Image> {
        let image = self.known.get(name)?.image;
        image.layers.iter().all(|layer| self.store.has(layer)).then_some(image)
    }

    /// Every name that has led to an image.
    pub fn all(&self) -> Vec<Entry> {
        self.known.all()
    }

    /// Forgets a name, in full. Its layers stay until they are collected.
    pub fn forget(&self, name: &str) -> bool {
        self.known.remove(name)
    }

    async fn pulled(
        &self,
        named: &Named,
        policy: Policy,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let name = named.to_string();
        // A digest leads to the same image for ever.
        let ask = policy == Policy::Always && named.digest.is_none();
        if !ask && let Some(image) = self.present(&name) {
            return Ok(image);
        }
        if policy == Policy::Never {
            return Err(ImageError::Absent { name });
        }
        let endpoints = {
            let (named, registries) = (named.clone(), self.registries.clone());
            let all = tokio::task::spawn_blocking(move || Endpoint::all(&named, &registries));
            all.await.map_err(|panic| ImageError::Other(panic.to_string()))??
        };
        let mut last = None;
        for endpoint in endpoints {
            match self.pull(Arc::new(endpoint), named, progress).await {
                Ok(image) => return Ok(image),
                // A mirror that is away or has not got it; the next one may.
                Err(
                    error @ (ImageError::Away { .. }
                    | ImageError::Unknown { .. }
                    | ImageError::Refused { .. }),
                ) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(ImageError::Absent { name }))
    }

    async fn pull(
        &self,
        endpoint: Arc<Endpoint>,
        named: &Named,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        let found = endpoint.find(named).await?;
        let layers = Layers {
            store: self.store.clone(),
            turns: self.turns.clone(),
            budget: self.budget(),
            progress: progress.clone(),
        };
        progress
            .send_replace(Progress { n_layers: found.image.layers.len(), ..Progress::default() });
        endpoint.fetch(&found, &layers).await?;
        let entry = Entry {
            name: named.to_string(),
            image: found.image.clone(),
            pulled_at: SystemClock.now(),
        };
        let kept = self.known.set(&entry);
        kept.map_err(|error| {
            ImageError::Other(format!("cannot remember the image `{named}`: {error}"))
        })?;
        Ok(found.image)
    }
}

/// The store of layers as one pull sees it.
#[derive(Clone)]
pub(crate) struct Layers {
    store: Arc<dyn LayerStore>,
    turns: Arc<Turns>,
    /// What all of them may unpack to.
    pub budget: Budget,
    progress: watch::Sender<Progress>,
}

impl Layers {
    pub fn has(&self, diff_id: &Digest) -> bool {
        self.store.has(diff_id)
    }

    pub fn store(&self) -> Arc<dyn LayerStore> {
        self.store.clone()
    }

    /// Held while a layer is fetched: who waits for it finds the layer there.
    pub async fn turn(&self, diff_id: &Digest) -> Turn {
        self.turns.take(diff_id).await
    }

    /// A layer of so many bytes belongs to the image.
    pub fn expect(&self, diff_id: &Digest, n_bytes: u64) {
        let there = if self.has(diff_id) { n_bytes } else { 0 };
        self.progress.send_modify(|progress| {
            progress.of_bytes += n_bytes;
            progress.n_bytes += there;
        });
    }

    /// So many bytes of it have come.
    pub fn came(&self, _: &Digest, n_bytes: u64) {
        self.progress.send_modify(|progress| {
            progress.n_bytes += n_bytes;
            progress.n_fetched += n_bytes;
        });
    }
}

//! Images from a registry: mirrors in order, then the registry itself; layers three at a time; a
//! connection that breaks is taken up where it broke.
//!
//! Source: github.com/opencontainers/distribution-spec (v1.1).

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kiln_model::layer::Digest;
use kiln_stdx::Secret;
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::blob;
use crate::images::{Layers, Registries};
use crate::limit::{CONFIG_BYTES_MAX, DEPTH_MAX, LAYER_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Document, Manifest, choose};
use crate::reference::Named;
use crate::{Image, ImageError};

/// Docker's own number: more do not make a slow line faster.
const AT_ONCE: usize = 3;
/// How often in a row a layer's connection may break without a byte having come.
const BREAKS_MAX: usize = 5;
/// Between a break and the next try.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const CONNECT_FOR: Duration = Duration::from_secs(20);
/// Silence of this length is a break.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A token is a short text. One that comes drop by drop is none.
const LOG_IN_FOR: Duration = Duration::from_secs(60);
/// Pieces of a layer between the network and the unpacker, of 8 to 16 KiB each.
const PIECES_MAX: usize = 256;

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// One registry, or a mirror of it.
pub(crate) struct Endpoint {
    client: Client,
    /// For manifests, of which the client takes whatever comes into memory.
    http: reqwest::Client,
    plain: bool,
    token: OnceCell<Option<Secret<String>>>,
    host: String,
    auth: RegistryAuth,
    repository: String,
    /// As the person wrote it, in full.
    name: String,
}

/// What must be fetched to have an image.
pub(crate) struct Found {
    pub image: Image,
    layers: Vec<Descriptor>,
}

impl Endpoint {
    /// Where a name is looked for, in order. Blocking: it may ask a credential helper.
    pub fn all(named: &Named, registries: &Registries) -> Result<Vec<Self>, ImageError> {
        let mirrors = registries.mirrors.get(&named.registry).into_iter().flatten();
        let hosts = mirrors.map(String::as_str).chain([named.registry.as_str()]);
        hosts.map(|host| Self::new(host, named, registries)).collect()
    }

    fn new(host: &str, named: &Named, registries: &Registries) -> Result<Self, ImageError> {
        let plain = registries.is_plain(host);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_FOR),
            read_timeout: Some(SILENCE_MAX),
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_FOR)
            .read_timeout(SILENCE_MAX)
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ImageError::Other(innermost(&error)))?;
        let login = registries.credentials.of(host).map_err(ImageError::Other)?;
        let auth = match login {
            Some(login) => RegistryAuth::Basic(login.user, login.password.expose().clone()),
            None => RegistryAuth::Anonymous,
        };
        Ok(Self {
            client: Client::new(config),
            http,
            plain,
            token: OnceCell::new(),
            host: host.to_owned(),
            auth,
            repository: named.repository.clone(),
            name: named.to_string(),
        })
    }

    fn reference(&self, at: At<'_>) -> oci_client::Reference {
        // The Hub's registry has another name than its images.
        let host = if self.host == "docker.io" { "index.docker.io" } else { &self.host };
        let (host, repository) = (host.to_owned(), self.repository.clone());
        match at {
            At::Tag(tag) => oci_client::Reference::with_tag(host, repository, tag.to_owned()),
            At::Digest(digest) => {
                oci_client::Reference::with_digest(host, repository, format!("sha256:{digest}"))
            }
        }
    }

    /// The image that the name leads to, without its layers.
    pub async fn find(&self, named: &Named) -> Result<Found, ImageError> {
        let at = match (&named.digest, &named.tag) {
            (Some(digest), _) => At::Digest(digest),
            (None, tag) => At::Tag(tag.as_deref().unwrap_or("latest")),
        };
        let (digest, manifest) = self.manifest(at).await?;
        let config = self.small(&manifest.config).await?;
        let image = Image::read(&self.name, digest, &config)?;
        if image.layers.len() != manifest.layers.len() {
            return Err(ImageError::damaged(
                &self.name,
                "manifest and configuration differ in layers",
            ));
        }
        if let Some(large) = manifest.layers.iter().find(|layer| layer.size > LAYER_BYTES_MAX) {
            let n = kiln_stdx::bytes::show(large.size);
            return Err(ImageError::damaged(&self.name, format!("a layer of it has {n}")));
        }
        Ok(Found { image, layers: manifest.layers })
    }

    async fn manifest(&self, at: At<'_>) -> Result<(Digest, Manifest), ImageError> {
        let mut bytes = self.document(at).await?;
        let mut digest = blob::digest(&bytes);
        for _ in 0..DEPTH_MAX {
            match Document::read(&self.name, &bytes)? {
                Document::Manifest(manifest) => return Ok((digest, manifest)),
                Document::Index(entries) => {
                    digest = choose(&self.name, &entries)?.sha256(&self.name)?;
                    bytes = self.document(At::Digest(&digest)).await?;
                }
            }
        }
        Err(ImageError::damaged(&self.name, "its indexes lead to one another without end"))
    }

    async fn document(&self, at: At<'_>) -> Result<Vec<u8>, ImageError> {
        let bytes = self.ask(&self.reference(at)).await?;
        match at {
            At::Tag(_) => Ok(bytes),
            At::Digest(digest) => blob::checked(&self.name, bytes, digest),
        }
    }

    /// Asks for a manifest, whose length is bounded whatever the registry says of it.
    async fn ask(&self, reference: &oci_client::Reference) -> Result<Vec<u8>, ImageError> {
        let failed =
            |cause: reqwest::Error| self.explain(&OciDistributionError::RequestError(cause));
        let token = self.token.get_or_try_init(|| self.log_in(reference)).await?;
        let url = format!(
            "{}://{}/v2/{}/manifests/{}",
            if self.plain { "http" } else { "https" },
            reference.resolve_registry(),
            reference.repository(),
            reference.digest().or(reference.tag()).unwrap_or("latest")
        );
        let request = self.http.get(&url).header(reqwest::header::ACCEPT, ACCEPTED.join(", "));
        let request = match (token, &self.auth) {
            (Some(token), _) => request.bearer_auth(token.expose()),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MANIFEST_BYTES_MAX {
                return Err(ImageError::damaged(&self.name, "its manifest is too large"));
            }
        }
        match status.as_u16() {
            200 => Ok(bytes),
            401 => Err(self.explain(&OciDistributionError::UnauthorizedError { url })),
            code => {
                let said = serde_json::from_slice(&bytes).ok().filter(|_| status.is_client_error());
                Err(self.explain(&match said {
                    Some(envelope) => OciDistributionError::RegistryError { envelope, url },
                    None => OciDistributionError::ServerError { code, url, message: String::new() },
                }))
            }
        }
    }

    /// What the registry gives for our login, if it gives anything.
    async fn log_in(
        &self,
        reference: &oci_client::Reference,
    ) -> Result<Option<Secret<String>>, ImageError> {
        let token = self.client.auth(reference, &self.auth, RegistryOperation::Pull);
        let late = |_| self.away(&io::Error::other("it gives no token within a minute"));
        let token = tokio::time::timeout(LOG_IN_FOR, token).await.map_err(late)?;
        match (token, &self.auth) {
            (Ok(token), _) => Ok(token.map(Secret::new)),
            // The registry itself says that it wants to know who asks.
            (Err(OciDistributionError::AuthenticationFailure(_)), RegistryAuth::Anonymous) => {
                Ok(None)
            }
            (Err(error), _) => Err(self.explain(&error)),
        }
    }

    async fn small(&self, what: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let digest = what.sha256(&self.name)?;
        if what.size > CONFIG_BYTES_MAX {
            return Err(ImageError::damaged(&self.name, "its configuration is too large"));
        }
        let mut bytes = Vec::new();
        let reference = self.reference(At::Digest(&digest));
        let mut stream = self
            .client
            .pull_blob_stream(&reference, &descriptor(what))
            .await
            .map_err(|error| self.explain(&error))?;
        while let Some(piece) = stream.stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|cause| self.broken(&cause))?);
            if bytes.len() as u64 > what.size {
                return Err(ImageError::damaged(
                    &self.name,
                    "its configuration is longer than promised",
                ));
            }
        }
        blob::checked(&self.name, bytes, &digest)
    }

    /// Fetches the layers that are not there.
    pub async fn fetch(self: Arc<Self>, found: &Found, layers: &Layers) -> Result<(), ImageError> {
        let mut tasks = JoinSet::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for (diff_id, sent) in found.image.layers.iter().zip(&found.layers) {
            let (endpoint, diff_id, sent) = (self.clone(), diff_id.clone(), sent.clone());
            let (turns, layers) = (turns.clone(), layers.clone());
            layers.expect(&diff_id, sent.size);
            tasks.spawn(async move {
                let _turn = turns.acquire_owned().await;
                // Another job may be fetching the same layer; then it is there in the end.
                let _alone = layers.turn(&diff_id).await;
                if layers.has(&diff_id) {
                    return Ok(());
                }
                endpoint.layer(&diff_id, &sent, &layers).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            // The others are dropped with the set, and the unpackers see the end of their pipes.
            done.map_err(|panic| ImageError::Other(panic.to_string()))??;
        }
        Ok(())
    }

    async fn layer(
        &self,
        diff_id: &Digest,
        sent: &Descriptor,
        layers: &Layers,
    ) -> Result<(), ImageError> {
        let (pieces, pipe) = mpsc::channel(PIECES_MAX);
        let (name, store, id) = (self.name.clone(), layers.store(), diff_id.clone());
        let budget = layers.budget.clone();
        let unpacked = tokio::task::spawn_blocking(move || {
            let from = Pipe { pieces: pipe, rest: Vec::new(), at: 0 };
            blob::unpack(&name, &id, from, &budget, &*store)
        });
        let sent_all = self.send(sent, layers, diff_id, &pieces).await;
        if let Err(error) = &sent_all {
            // The unpacker must not take what came for all.
            let _ = pieces.send(Err(io::Error::other(error.to_string()))).await;
        }
        drop(pieces);
        let unpacked = unpacked.await.map_err(|panic| ImageError::Other(panic.to_string()))?;
        sent_all.and(unpacked)
    }

    /// Sends a layer's bytes into the pipe, over as many connections as it takes.
    async fn send(
        &self,
        sent: &Descriptor,
        layers: &Layers,
        diff_id: &Digest,
        pieces: &mpsc::Sender<io::Result<Vec<u8>>>,
    ) -> Result<(), ImageError> {
        let digest = sent.sha256(&self.name)?;
        let reference = self.reference(At::Digest(&digest));
        let (mut at, mut n_breaks) = (0u64, 0);
        while at < sent.size {
            let before = at;
            let broke = match self
                .client
                .pull_blob_stream_partial(&reference, &descriptor(sent), at, None)
                .await
            {
                Ok(answer) => {
                    let (stream, mut skip) = match answer {
                        BlobResponse::Partial(stream) => (stream.stream, 0),
                        // A registry that knows no ranges begins anew.
                        BlobResponse::Full(stream) => (stream.stream, at),
                    };
                    self.forward(stream, &mut skip, &mut at, sent.size, pieces, |n| {
                        layers.came(diff_id, n)
                    })
                    .await?
                }
                Err(error) => match self.explain(&error) {
                    away @ ImageError::Away { .. } => Some(away),
                    other => return Err(other),
                },
            };
            let Some(broke) = broke else { continue };
            n_breaks = if at > before { 1 } else { n_breaks + 1 };
            if n_breaks > BREAKS_MAX {
                return Err(broke);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// Forwards what comes over one connection. Gives how it broke, if it did.
    async fn forward<S, B: AsRef<[u8]>>(
        &self,
        mut stream: S,
        skip: &mut u64,
        at: &mut u64,
        size: u64,
        pieces: &mpsc::Sender<io::Result<Vec<u8>>>,
        came: impl Fn(u64),
    ) -> Result<Option<ImageError>, ImageError>
    where
        S: futures_util::Stream<Item = Result<B, io::Error>> + Unpin,
    {
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(cause) => match self.broken(&cause) {
                    away @ ImageError::Away { .. } => return Ok(Some(away)),
                    damaged => return Err(damaged),
                },
            };
            let mut piece = piece.as_ref();
            let skipped = (*skip).min(piece.len() as u64);
            *skip -= skipped;
            piece = &piece[skipped as usize..];
            if *at + piece.len() as u64 > size {
                return Err(ImageError::damaged(&self.name, "a layer is longer than promised"));
            }
            *at += piece.len() as u64;
            came(piece.len() as u64);
            if !piece.is_empty() && pieces.send(Ok(piece.to_vec())).await.is_err() {
                // The unpacker has given up, and says why.
                *at = size;
                return Ok(None);
            }
        }
        let short = || self.away(&io::Error::from(io::ErrorKind::UnexpectedEof));
        Ok((*at < size).then(short))
    }

    /// Why a stream ended before its time: its connection, or what came over it.
    fn broken(&self, cause: &io::Error) -> ImageError {
        match cause.get_ref().is_some_and(|inner| inner.is::<DigestError>()) {
            true => {
                ImageError::damaged(&self.name, "what came has another digest than was promised")
            }
            false => self.away(cause),
        }
    }

    fn away(&self, cause: &dyn std::error::Error) -> ImageError {
        ImageError::Away {
            registry: self.host.clone(),
            name: self.name.clone(),
            why: with_way_out(innermost(cause)),
        }
    }

    fn explain(&self, error: &OciDistributionError) -> ImageError {
        use OciDistributionError as E;
        let (registry, name) = (self.host.clone(), self.name.clone());
        let refused = |why: String| ImageError::Refused {
            registry: self.host.clone(),
            name: self.name.clone(),
            why,
        };
        match error {
            E::ImageManifestNotFoundError(_) => {
                ImageError::Unknown { name, why: format!("`{registry}` has none of that name") }
            }
            E::AuthenticationFailure(_) => refused("it does not know these credentials".to_owned()),
            E::UnauthorizedError { .. } => refused("it wants to know who asks".to_owned()),
            E::RegistryError { envelope, .. } => {
                let code =
                    envelope.errors.first().map(|error| (&error.code, error.message.clone()));
                match code {
                    Some((
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                        _,
                    )) => ImageError::Unknown {
                        name,
                        why: format!("`{registry}` has none of that name"),
                    },
                    Some((OciErrorCode::BlobUnknown, _)) => {
                        ImageError::damaged(name, format!("`{registry}` lacks a part of it"))
                    }
                    Some((OciErrorCode::Unauthorized | OciErrorCode::Denied, message)) => {
                        refused(if message.is_empty() { "not for us".to_owned() } else { message })
                    }
                    Some((OciErrorCode::Toomanyrequests, message)) => ImageError::Away {
                        registry,
                        name,
                        why: format!(
                            "it has been asked too often ({message}); a login may ask more often, and a mirror in \
                             `[registries]` of kiln.toml is asked first"
                        ),
                    },
                    Some((code, message)) => ImageError::Away {
                        registry,
                        name,
                        why: format!("it answers {code:?}: {message}"),
                    },
                    None => ImageError::Away {
                        registry,
                        name,
                        why: "it answers with an error".to_owned(),
                    },
                }
            }
            E::ServerError { code: 404, .. } => {
                ImageError::Unknown { name, why: format!("`{registry}` has none of that name") }
            }
            E::ServerError { code: code @ (401 | 403), .. } => {
                refused(format!("it answers with status {code}"))
            }
            E::ServerError { code, .. } => {
                ImageError::Away { registry, name, why: format!("it answers with status {code}") }
            }
            E::RequestError(cause) => self.away(cause),
            E::IoError(cause) => self.away(cause),
            E::DigestError(_) => ImageError::damaged(name, "a digest does not fit what came"),
            other => ImageError::damaged(
                name,
                format!("`{registry}` answers what cannot be read: {other}"),
            ),
        }
    }
}

/// The other ways to name a manifest.
#[derive(Clone, Copy)]
enum At<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

/// Without its `urls`: a stranger's manifest would send us anywhere.
fn descriptor(of: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        media_type: of.media_type.clone(),
        digest: of.digest.clone(),
        size: i64::try_from(of.size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

/// What TLS says of the three mistakes that are the most usual with registries of one's own.
fn with_way_out(why: String) -> String {
    let way = if why.contains("UnknownIssuer") {
        "; if its certificate is right, put that of its authority into the machine's store, or name the file with \
         SSL_CERT_FILE"
    } else if why.contains("CaUsedAsEndEntity") {
        "; its certificate is an authority's, as `openssl req -x509` makes them: make it with `-addext \
         basicConstraints=critical,CA:FALSE`, and name the file with SSL_CERT_FILE"
    } else if why.contains("InvalidContentType") {
        "; if it speaks without TLS, add it to `plain` in `[registries]` of kiln.toml"
    } else {
        ""
    };
    format!("{why}{way}")
}

/// The last of a chain of causes says what happened: `connection refused`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Pieces from the network as one stream for a thread.
struct Pipe {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.rest, self.at) = (piece?, 0),
                None => return Ok(0),
            }
        }
        let n = into.len().min(self.rest.len() - self.at);
        into[..n].copy_from_slice(&self.rest[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

//! Registries that ask for a login, break connections, lie, and are away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use kiln_image::{Folder, Image, ImageError, Policy, Progress, Registries};
use serde_json::json;
use tokio::sync::watch;

use crate::sample::{Machine, Sample, credentials, go_architecture, machine, named};

/// What a registry serves, and how it misbehaves.
#[derive(Default)]
struct Behaviour {
    /// Manifests by tag or digest.
    manifests: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    /// Each answer with a blob ends after so many bytes.
    cut_after: Option<usize>,
    /// Who has no token gets none.
    token: Option<&'static str>,
    knows_ranges: bool,
    /// Instead of any manifest.
    refuses: Option<(u16, &'static str)>,
    /// Manifests have no end.
    endless: bool,
    /// Where it sends who asks for a blob.
    blobs_at: Option<&'static str>,
}

#[derive(Clone)]
struct Registry {
    host: String,
    behaviour: Arc<Mutex<Behaviour>>,
    n_asked: Arc<AtomicUsize>,
    n_blobs: Arc<AtomicUsize>,
}

impl Registry {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            host: listener.local_addr().unwrap().to_string(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            n_asked: Arc::default(),
            n_blobs: Arc::default(),
        };
        let router = Router::new()
            .route("/v2/", get(hello))
            .route("/token", get(token))
            .route("/v2/{name}/manifests/{at}", get(manifest))
            .route("/v2/{name}/blobs/{digest}", get(blob))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    async fn with(sample: &Sample) -> Self {
        Self::start(Behaviour {
            manifests: HashMap::from([
                ("v1".to_owned(), sample.manifest.clone()),
                (named(&sample.manifest), sample.manifest.clone()),
            ]),
            blobs: sample.blobs.clone(),
            knows_ranges: true,
            ..Behaviour::default()
        })
        .await
    }

    fn allows(&self, headers: &HeaderMap) -> bool {
        self.n_asked.fetch_add(1, Ordering::SeqCst);
        let Some(token) = self.behaviour.lock().unwrap().token else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given == Some(&format!("Bearer {token}"))
    }

    fn challenge(&self) -> Response<Body> {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.host);
        answer(StatusCode::UNAUTHORIZED, header::WWW_AUTHENTICATE, &realm, Vec::new())
    }
}

fn answer(
    status: StatusCode,
    key: header::HeaderName,
    value: &str,
    body: Vec<u8>,
) -> Response<Body> {
    Response::builder().status(status).header(key, value).body(body.into()).unwrap()
}

fn missing(code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": "not here", "detail": {}}]});
    answer(StatusCode::NOT_FOUND, header::CONTENT_TYPE, "application/json", body.to_string().into())
}

async fn hello(State(registry): State<Registry>, headers: HeaderMap) -> Response<Body> {
    match registry.allows(&headers) {
        true => answer(StatusCode::OK, header::CONTENT_TYPE, "application/json", b"{}".into()),
        false => registry.challenge(),
    }
}

/// `user:pass` gets the token.
async fn token(State(registry): State<Registry>, headers: HeaderMap) -> Response<Body> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some("Basic dXNlcjpwYXNz") {
        return answer(StatusCode::UNAUTHORIZED, header::CONTENT_TYPE, "text/plain", b"no".into());
    }
    let token = registry.behaviour.lock().unwrap().token.unwrap_or_default();
    let body = json!({"token": token}).to_string();
    answer(StatusCode::OK, header::CONTENT_TYPE, "application/json", body.into())
}

async fn manifest(
    State(registry): State<Registry>,
    Path((_, at)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    if !registry.allows(&headers) {
        return registry.challenge();
    }
    if let Some((status, body)) = registry.behaviour.lock().unwrap().refuses {
        return Response::builder().status(status).body(body.into()).unwrap();
    }
    if registry.behaviour.lock().unwrap().endless {
        let spaces = || Ok::<_, std::io::Error>(vec![b' '; 1 << 16]);
        let without_end = futures_util::stream::repeat_with(spaces);
        return Response::new(Body::from_stream(without_end));
    }
    let found = registry.behaviour.lock().unwrap().manifests.get(&at).cloned();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    found.map_or_else(
        || missing("MANIFEST_UNKNOWN"),
        |bytes| answer(StatusCode::OK, header::CONTENT_TYPE, kind, bytes),
    )
}

async fn blob(
    State(registry): State<Registry>,
    Path((_, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    if !registry.allows(&headers) {
        return registry.challenge();
    }
    registry.n_blobs.fetch_add(1, Ordering::SeqCst);
    let behaviour = registry.behaviour.lock().unwrap();
    if let Some(at) = behaviour.blobs_at {
        return answer(StatusCode::TEMPORARY_REDIRECT, header::LOCATION, at, Vec::new());
    }
    let Some(bytes) = behaviour.blobs.get(&digest).cloned() else { return missing("BLOB_UNKNOWN") };
    let range = headers.get(header::RANGE).and_then(|range| {
        range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
    });
    let from = range.filter(|_| behaviour.knows_ranges);
    let rest = bytes[from.unwrap_or(0)..].to_vec();
    let sent = rest.len().min(behaviour.cut_after.unwrap_or(usize::MAX));
    // The length of the whole, and then the end before it: a connection that breaks.
    let whole = sent == rest.len();
    let pieces =
        futures_util::stream::unfold(Some(rest[..sent].to_vec()), move |left| async move {
            match left {
                Some(piece) if !piece.is_empty() => Some((Ok(piece), Some(Vec::new()))),
                Some(_) if !whole => {
                    // What is there is sent while this waits.
                    tokio::task::yield_now().await;
                    Some((Err(std::io::Error::other("cut")), None))
                }
                _ => None,
            }
        });
    let body = Body::from_stream(pieces);
    Response::builder()
        .status(if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header(header::CONTENT_LENGTH, rest.len())
        .body(body)
        .unwrap()
}

async fn pull(machine: &Machine, name: &str, policy: Policy) -> Result<Image, ImageError> {
    let files = Arc::new(Folder(machine.folder.path().to_owned()));
    machine.images.get(name, policy, files, &watch::Sender::new(Progress::default())).await
}

fn layer(seed: u8) -> Vec<u8> {
    // Does not compress to nothing.
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..100_000).map(|_| next()).collect()
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_needs_no_network() {
    let sample = Sample::new(&[&layer(1), &layer(2)]);
    let registry = Registry::with(&sample).await;
    let machine = machine(Registries::default());
    let name = format!("{}/app:v1", registry.host);
    let image = pull(&machine, &name, Policy::Missing).await.unwrap();
    assert!(sample.is_kept(&machine.kept));
    assert_eq!(image.digest.as_str(), &named(&sample.manifest)[7..]);
    assert_eq!(image.config.env["A"], "b");
    let n_asked = registry.n_asked.load(Ordering::SeqCst);
    assert_eq!(pull(&machine, &name, Policy::Missing).await.unwrap(), image);
    assert_eq!(pull(&machine, &name, Policy::Never).await.unwrap(), image);
    assert_eq!(registry.n_asked.load(Ordering::SeqCst), n_asked);
    pull(&machine, &name, Policy::Always).await.unwrap();
    assert!(registry.n_asked.load(Ordering::SeqCst) > n_asked);
    // A layer that is gone is fetched again.
    machine.kept.0.lock().unwrap().clear();
    assert!(matches!(pull(&machine, &name, Policy::Never).await, Err(ImageError::Absent { .. })));
    pull(&machine, &name, Policy::Missing).await.unwrap();
    assert!(sample.is_kept(&machine.kept));
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let sample = Sample::new(&[&layer(1), &layer(2)]);
    for knows_ranges in [true, false] {
        let registry = Registry::with(&sample).await;
        {
            let mut behaviour = registry.behaviour.lock().unwrap();
            behaviour.cut_after = Some(60_000);
            behaviour.knows_ranges = knows_ranges;
        }
        let machine = machine(Registries::default());
        let pulled = pull(&machine, &format!("{}/app:v1", registry.host), Policy::Missing).await;
        match knows_ranges {
            true => assert!(pulled.is_ok() && sample.is_kept(&machine.kept), "{pulled:?}"),
            // Begun anew each time, it never gets further.
            false => assert!(matches!(pulled, Err(ImageError::Away { .. })), "{pulled:?}"),
        }
    }
}

#[tokio::test]
async fn the_login_of_docker_is_used_and_asked_for_in_words() {
    let sample = Sample::new(&[&layer(3)]);
    let registry = Registry::with(&sample).await;
    registry.behaviour.lock().unwrap().token = Some("sesame");
    let name = format!("{}/app:v1", registry.host);
    let refused = pull(&machine(Registries::default()), &name, Policy::Missing).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("docker login {}", registry.host)), "{refused}");
    let auths = json!({"auths": {registry.host.as_str(): {"auth": "dXNlcjpwYXNz"}}});
    let with = machine(Registries { credentials: credentials(&auths), ..Registries::default() });
    pull(&with, &name, Policy::Missing).await.unwrap();
    assert!(sample.is_kept(&with.kept));
}

#[tokio::test]
async fn what_is_not_what_was_promised_is_refused_and_not_kept() {
    let sample = Sample::new(&[&layer(4)]);
    let registry = Registry::with(&sample).await;
    let name = format!("{}/app", registry.host);
    let lie = |of: &str, with: Vec<u8>| {
        registry.behaviour.lock().unwrap().blobs.insert(of.to_owned(), with);
    };
    let compressed = crate::sample::gzip(&layer(4));
    let mut other = crate::sample::gzip(&layer(5));
    other.resize(compressed.len(), 0);
    lie(&named(&compressed), other);
    let machine = machine(Registries::default());
    let wrong = pull(&machine, &format!("{name}:v1"), Policy::Missing).await.unwrap_err();
    assert!(matches!(wrong, ImageError::Unpack { .. } | ImageError::Damaged { .. }), "{wrong}");
    assert!(machine.kept.0.lock().unwrap().is_empty());
    // The configuration.
    lie(&named(&sample.config), vec![b' '; sample.config.len()]);
    let wrong = pull(&machine, &format!("{name}:v1"), Policy::Missing).await.unwrap_err();
    assert!(matches!(wrong, ImageError::Damaged { .. }), "{wrong}");
    // The manifest of a pinned image.
    let pinned = named(&sample.manifest);
    registry.behaviour.lock().unwrap().manifests.insert(pinned.clone(), b"{}".to_vec());
    let wrong = pull(&machine, &format!("{name}@{pinned}"), Policy::Missing).await.unwrap_err();
    assert!(matches!(wrong, ImageError::Damaged { .. }), "{wrong}");
}

#[tokio::test]
async fn no_registry_and_no_image_are_told_apart() {
    let sample = Sample::new(&[&layer(6)]);
    let registry = Registry::with(&sample).await;
    let machine = machine(Registries::default());
    let missing = pull(&machine, &format!("{}/app:v2", registry.host), Policy::Missing).await;
    assert!(matches!(missing, Err(ImageError::Unknown { .. })), "{missing:?}");
    let away = pull(&machine, "127.0.0.1:1/app:v1", Policy::Missing).await.unwrap_err();
    assert!(matches!(away, ImageError::Away { .. }), "{away:?}");
    assert!(away.to_string().contains("refused"), "{away}");
}

#[tokio::test]
async fn each_refusal_of_a_registry_is_told_in_words() {
    let sample = Sample::new(&[&layer(9)]);
    let registry = Registry::with(&sample).await;
    let machine = machine(Registries::default());
    let often =
        r#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down", "detail": {}}]}"#;
    for (status, body, words) in [
        (401, "", "wants to know who asks; log in with `docker login"),
        (403, "<html>", "status 403; log in with"),
        (404, "<html>", "none of that name"),
        (429, often, "asked too often (slow down)"),
        (500, "<html>", "cannot be reached"),
        (200, "<html>", "damaged or hostile"),
    ] {
        registry.behaviour.lock().unwrap().refuses = Some((status, body));
        let name = format!("{}/app:v1", registry.host);
        let error = pull(&machine, &name, Policy::Missing).await.unwrap_err().to_string();
        assert!(error.contains(words), "{status}: {error}");
    }
    assert!(machine.kept.0.lock().unwrap().is_empty());
}

/// A manifest of a gigabyte is not waited for, and not in memory.
#[tokio::test]
async fn a_manifest_without_end_is_refused_at_its_bound() {
    let sample = Sample::new(&[&layer(11)]);
    let registry = Registry::with(&sample).await;
    registry.behaviour.lock().unwrap().endless = true;
    let machine = machine(Registries::default());
    let name = format!("{}/app:v1", registry.host);
    let error = pull(&machine, &name, Policy::Missing).await.unwrap_err().to_string();
    assert!(error.contains("its manifest is too large"), "{error}");
}

#[tokio::test]
async fn a_registry_cannot_send_us_to_a_file() {
    let sample = Sample::new(&[&layer(10)]);
    let registry = Registry::with(&sample).await;
    registry.behaviour.lock().unwrap().blobs_at = Some("file:///etc/passwd");
    let machine = machine(Registries::default());
    let error = pull(&machine, &format!("{}/app:v1", registry.host), Policy::Missing).await;
    assert!(matches!(error, Err(ImageError::Away { .. })), "{error:?}");
    assert!(machine.kept.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_right_platform_of_an_index_is_taken_from_a_mirror() {
    let sample = Sample::new(&[&layer(7)]);
    let registry = Registry::with(&sample).await;
    let entry = |os: &str, arch: &str, of: &[u8]| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": named(of),
            "size": of.len(), "platform": {"os": os, "architecture": arch}})
    };
    let index = json!({"schemaVersion": 2, "manifests": [
        entry("linux", "mips64", b"x"), entry("linux", go_architecture(), &sample.manifest),
    ]});
    let index = index.to_string().into_bytes();
    registry.behaviour.lock().unwrap().manifests.insert("v2".to_owned(), index);
    // A mirror that is away, one that works, and a registry that is never asked.
    let mirrors = vec!["127.0.0.1:1".to_owned(), registry.host.clone()];
    let registries = Registries {
        mirrors: HashMap::from([("registry.invalid".to_owned(), mirrors)]),
        ..Registries::default()
    };
    let machine = machine(registries);
    let image = pull(&machine, "registry.invalid/app:v2", Policy::Missing).await.unwrap();
    assert_eq!(image.digest.as_str(), &named(&sample.manifest)[7..]);
    assert!(sample.is_kept(&machine.kept));
}

#[tokio::test]
async fn two_jobs_that_want_the_same_image_fetch_it_once() {
    let sample = Sample::new(&[&layer(8)]);
    let registry = Registry::with(&sample).await;
    let machine = machine(Registries::default());
    let name = format!("{}/app:v1", registry.host);
    let (a, b) = tokio::join!(
        pull(&machine, &name, Policy::Missing),
        pull(&machine, &name, Policy::Missing)
    );
    assert_eq!(a.unwrap(), b.unwrap());
    assert!(sample.is_kept(&machine.kept));
    // Twice the configuration, once the layer.
    assert_eq!(registry.n_blobs.load(Ordering::SeqCst), 3);
}

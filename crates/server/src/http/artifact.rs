//! Files that jobs gave: one at a time, or several as an archive.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kiln_api::user::ArtifactRow;
use kiln_model::artifact::Artifact;
use kiln_stdx::base64;
use kiln_store::{ArtifactRow as StoredRow, RunRow};
use serde::Deserialize;

use super::Error;
use super::archive::{Archive, Entry, Format};
use super::extract::{self, Asked, At};
use super::file::{self, Part};
use super::log::attachment;
use super::media;
use crate::state::App;

/// Read to see whether a file is text.
const SNIFF_BYTES: usize = 4 << 10;

/// A browser runs nothing of it and asks for nothing.
const SAVED: &str = "default-src 'none'; sandbox";
/// A browser shows it with its own styles and pictures, and runs nothing of it.
const SHOWN: &str = "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
     font-src 'self' data:; media-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
     form-action 'none'; sandbox allow-same-origin";

/// The artifacts of a run's jobs, of every attempt.
pub async fn list(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
) -> Result<Json<Vec<ArtifactRow>>, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let rows = app.runs.store().artifacts(row.id).await?;
    let shown = |row: StoredRow| ArtifactRow {
        job: row.job.to_string(),
        attempt: row.attempt.attempt,
        artifact: row.artifact,
        collected_at: row.collected_at,
    };
    Ok(Json(rows.into_iter().map(shown).collect()))
}

#[derive(Deserialize)]
pub struct Which {
    attempt: Option<u32>,
}

/// One artifact, to be saved. `Range` gives a part; the `ETag` and `Repr-Digest` are its SHA-256.
/// Without `attempt`: of the newest attempt that gave it.
///
/// Errors: `run_not_found`, `artifact_not_found`, `artifact_gone`.
pub async fn get(
    State(app): State<App>,
    At((project, number, job, path)): At<(String, String, String, String)>,
    Asked(which): Asked<Which>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let mut answer = send(&app, &row, (&job, &path), which.attempt, &headers).await?;
    let name = path.rsplit('/').next().unwrap_or_default();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, attachment(name));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SAVED));
    Ok(answer)
}

/// One artifact of one attempt, for a browser to show: as a page without scripts, whatever is in it.
/// Its address ends like its path, so that the pages of a report find one another.
pub async fn view(
    app: &App,
    row: &RunRow,
    (job, path): (&str, &str),
    attempt: u32,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let mut answer = send(app, row, (job, path), Some(attempt), headers).await?;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SHOWN));
    Ok(answer)
}

async fn send(
    app: &App,
    row: &RunRow,
    (job, path): (&str, &str),
    attempt: Option<u32>,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let mut rows = app.runs.store().artifacts(row.id).await?;
    rows.retain(|row| row.job.as_str() == job && row.artifact.path == path);
    rows.retain(|row| attempt.is_none_or(|wanted| row.attempt.attempt == wanted));
    let newest = rows.into_iter().max_by_key(|row| row.attempt.attempt);
    let newest = newest.ok_or_else(|| Error::not_found("artifact"))?;
    if newest.collected_at.is_some() {
        return Err(gone(row, path));
    }
    let artifact = newest.artifact;
    let etag = format!("\"{}\"", artifact.digest);
    let (mut file, media_type) = open(app, row, &artifact).await?;
    let n_bytes = artifact.n_bytes;
    let part = file::part(headers, n_bytes, Some(&etag));
    let (status, mut answer, range) = file::head(&part, n_bytes);
    let mut put = |name, value: String| {
        if let Ok(value) = value.parse() {
            answer.insert(name, value);
        }
    };
    put(header::CONTENT_TYPE, media_type);
    put(header::CACHE_CONTROL, "private, no-cache".to_owned());
    put(header::ETAG, etag.clone());
    let digest = base64::encode(&bytes_of(artifact.digest.as_str()));
    put(header::HeaderName::from_static("repr-digest"), format!("sha-256=:{digest}:"));
    if is_known(headers, &etag) {
        answer.remove(header::CONTENT_LENGTH);
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    if part == Part::Outside {
        return Ok((status, answer).into_response());
    }
    let n_sent = range.end - range.start;
    let open = move || {
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Box::new(file) as Box<dyn Read + Send>)
    };
    Ok((status, answer, file::body(open, n_sent)).into_response())
}

/// The file of an artifact, whole, and its media type.
async fn open(
    app: &App,
    row: &RunRow,
    artifact: &Artifact,
) -> Result<(std::fs::File, String), Error> {
    let objects = app.runs.objects().clone();
    let (digest, path) = (artifact.digest.clone(), artifact.path.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let mut file = objects.open(&digest)?;
        let mut start = Vec::new();
        file.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
        Ok::<_, io::Error>((file.metadata()?.len(), media::of(&path, &start), file))
    });
    match opened.await.map_err(|panic| Error::ours(&panic))? {
        Ok((n_bytes, media_type, file)) if n_bytes == artifact.n_bytes => Ok((file, media_type)),
        Ok(_) => Err(Error::ours(&Damaged(artifact.path.clone()))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(gone(row, &artifact.path)),
        Err(cause) => Err(cause.into()),
    }
}

/// The bytes of an artifact are not those that were kept.
#[derive(Debug, thiserror::Error)]
#[error("the artifact `{0}` is damaged on disk: its length is not the one that was kept")]
struct Damaged(String);

fn gone(row: &RunRow, path: &str) -> Error {
    let run = format!("{}#{}", row.project_name, row.number);
    let message =
        format!("the artifact `{path}` of {run} was collected: it is older than what is kept");
    Error::new(StatusCode::GONE, "artifact_gone", message)
        .help(format!("`kiln rerun '{run}'` makes it again"))
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    known.is_some_and(|known| {
        let mut tags = known.split(',').map(|one| one.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == etag || tag == "*")
    })
}

/// Of hexadecimal digits.
fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or("00"), 16);
    (0..hex.len() / 2).map(|at| byte(2 * at).unwrap_or(0)).collect()
}

#[derive(Deserialize)]
pub struct Chosen {
    /// A file, or a folder with everything below it. Default: all.
    path: Option<String>,
    /// Of this job only.
    job: Option<String>,
    /// Of this attempt only. Default: of each file the newest.
    attempt: Option<u32>,
}

/// Artifacts as a tar archive, made while it is sent.
///
/// Errors: `run_not_found`, `artifact_not_found`, `artifact_gone`.
pub async fn tar(app: State<App>, at: At<(String, String)>, asked: Asked<Chosen>) -> Answer {
    archive(app, at, asked, Format::Tar).await
}

/// As [`tar`], compressed.
pub async fn tar_zst(app: State<App>, at: At<(String, String)>, asked: Asked<Chosen>) -> Answer {
    archive(app, at, asked, Format::TarZst).await
}

/// As [`tar`], as a zip archive.
pub async fn zip(app: State<App>, at: At<(String, String)>, asked: Asked<Chosen>) -> Answer {
    archive(app, at, asked, Format::Zip).await
}

type Answer = Result<Response, Error>;

async fn archive(
    State(app): State<App>,
    At((project, number)): At<(String, String)>,
    Asked(asked): Asked<Chosen>,
    format: Format,
) -> Answer {
    let row = extract::run(&app, &project, &number).await?;
    let rows = app.runs.store().artifacts(row.id).await?;
    let path = asked.path.as_deref().unwrap_or("").trim_matches('/');
    let entries = chosen(rows, path, &asked);
    if entries.is_empty() {
        return Err(Error::not_found("artifact"));
    }
    let objects = app.runs.objects().clone();
    let paths: Vec<_> = entries.iter().map(|one| objects.path(&one.digest)).collect();
    // Before the first byte: an answer that breaks off tells nobody why.
    let missing = move || Ok(paths.iter().position(|path| !path.exists()));
    if let Some(at) = super::log::blocking(missing).await? {
        return Err(gone(&row, &entries[at].path));
    }
    let of = [asked.job.as_deref().unwrap_or(""), path.rsplit('/').next().unwrap_or("")];
    let of: String =
        of.iter().filter(|part| !part.is_empty()).map(|part| format!("-{part}")).collect();
    let name = format!("{}-{}{of}.{}", row.project_name, row.number, format.suffix());
    let archive = Archive::new(format, &entries, row.created_at, objects);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CONTENT_DISPOSITION, attachment(&name));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SAVED));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if format != Format::TarZst {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(archive.n_bytes));
    }
    Ok((headers, body(archive, format)).into_response())
}

fn body(archive: Archive, format: Format) -> Body {
    let n_bytes = archive.n_bytes;
    match format {
        Format::TarZst => file::stream(move || {
            let packed = zstd::stream::read::Encoder::new(archive, zstd::DEFAULT_COMPRESSION_LEVEL);
            Ok(Box::new(packed?) as Box<dyn Read + Send>)
        }),
        Format::Tar | Format::Zip => {
            file::body(move || Ok(Box::new(archive) as Box<dyn Read + Send>), n_bytes)
        }
    }
}

/// What an archive holds, by path. A path that several jobs gave is in a folder of each job's name.
fn chosen(rows: Vec<StoredRow>, path: &str, asked: &Chosen) -> Vec<Entry> {
    let mut newest = HashMap::<(String, String), StoredRow>::new();
    for row in rows {
        let rest = row.artifact.path.strip_prefix(path);
        let below =
            rest.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        let of_job = asked.job.as_deref().is_none_or(|job| job == row.job.as_str());
        let of_attempt = asked.attempt.is_none_or(|attempt| attempt == row.attempt.attempt);
        if below && of_job && of_attempt {
            // They come by attempt, the newest last.
            newest.insert((row.artifact.path.clone(), row.job.to_string()), row);
        }
    }
    let mut n_jobs = HashMap::<String, usize>::new();
    newest.keys().for_each(|(path, _)| *n_jobs.entry(path.clone()).or_default() += 1);
    let entry = |((path, job), row): ((String, String), StoredRow)| Entry {
        path: if n_jobs[&path] > 1 { format!("{}/{path}", job.replace('/', "_")) } else { path },
        n_bytes: row.artifact.n_bytes,
        digest: row.artifact.digest,
        executable: row.artifact.executable,
    };
    let mut entries: Vec<Entry> = newest.into_iter().map(entry).collect();
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

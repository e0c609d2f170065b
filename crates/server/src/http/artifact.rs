//! Files that jobs gave.

use std::io::{Read, Seek, SeekFrom};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kiln_api::user::ArtifactRow;
use kiln_store::ArtifactRow as StoredRow;
use serde::Deserialize;

use super::Error;
use super::extract::{self, Asked, At};
use super::file::{self, Part};
use super::log::attachment;
use crate::state::App;

/// Read to see whether a file is text.
const SNIFF_BYTES: usize = 4 << 10;

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
    };
    Ok(Json(rows.into_iter().map(shown).collect()))
}

#[derive(Deserialize)]
pub struct Which {
    attempt: Option<u32>,
}

/// One artifact. `Range` gives a part; the `ETag` is its digest. Without `attempt`: of the newest
/// attempt that gave it. Never shown by a browser as a page of ours: text is plain text and the rest
/// is bytes.
///
/// Errors: `run_not_found`, `artifact_not_found`.
pub async fn get(
    State(app): State<App>,
    At((project, number, job, path)): At<(String, String, String, String)>,
    Asked(which): Asked<Which>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let row = extract::run(&app, &project, &number).await?;
    let mut rows = app.runs.store().artifacts(row.id).await?;
    rows.retain(|row| row.job.as_str() == job && row.artifact.path == path);
    rows.retain(|row| which.attempt.is_none_or(|wanted| row.attempt.attempt == wanted));
    let newest = rows.into_iter().max_by_key(|row| row.attempt.attempt);
    let artifact = newest.ok_or_else(|| Error::not_found("artifact"))?.artifact;
    let etag = format!("\"{}\"", artifact.digest);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known.split(',').any(
            |one| matches!(one.trim().trim_start_matches("W/"), tag if tag == etag || tag == "*"),
        )
    });
    let objects = app.runs.objects().clone();
    let digest = artifact.digest.clone();
    let opened = super::log::blocking(move || {
        let mut file = objects.open(&digest)?;
        let mut start = Vec::new();
        (&mut file).take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
        Ok((file.metadata()?.len(), media_type(&start), file))
    });
    let (n_bytes, media_type, mut file) = opened.await?;
    let part = file::part(&headers, n_bytes, Some(&etag));
    let (status, mut answer, range) = file::head(&part, n_bytes);
    let name = artifact.path.rsplit('/').next().unwrap_or_default();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.insert(header::CONTENT_DISPOSITION, attachment(name));
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    answer.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    if let Ok(etag) = etag.parse() {
        answer.insert(header::ETAG, etag);
    }
    if is_known {
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

/// Text, or bytes. Nothing that a browser runs.
fn media_type(start: &[u8]) -> &'static str {
    let is_text = match std::str::from_utf8(start) {
        Ok(_) => true,
        // The last character may be cut in the middle.
        Err(error) => error.error_len().is_none(),
    };
    let has_control = start.iter().any(|b| *b < b' ' && !b"\t\n\r\x0c\x1b".contains(b));
    match is_text && !has_control {
        true => "text/plain; charset=utf-8",
        false => "application/octet-stream",
    }
}

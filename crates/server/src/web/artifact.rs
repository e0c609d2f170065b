//! The files that a run's or a job's page offers, and `/p/{project}/{number}/{job}/files/…`, where a
//! browser shows one of them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kiln_api::user::{ArtifactRow, Run};
use kiln_stdx::Timestamp;

use super::error::{self, PageError};
use super::extract::Segments;
use super::page::link;
use super::run;
use super::show::{self, segment};
use crate::http::{artifact, media};
use crate::state::App;

/// A list as long as this is read at a glance; a longer one is put into groups.
const FLAT_MAX: usize = 12;
/// Groups of no more files altogether are open from the start.
const OPEN_MAX: usize = 40;

/// Files on a page, in groups.
pub struct Shelf {
    pub n_files: usize,
    pub size: String,
    /// Where all of them are one archive, up to the `.zip`, and what follows that.
    archive: String,
    query: String,
    /// One without a name: a short list.
    pub groups: Vec<Group>,
    /// Some are there: not all were collected.
    pub some_there: bool,
    /// Whether a row says which job gave it.
    pub with_jobs: bool,
}

pub struct Group {
    pub name: String,
    pub size: String,
    pub open: bool,
    query: String,
    pub files: Vec<File>,
}

pub struct File {
    pub path: String,
    pub job: String,
    pub job_link: String,
    pub attempt: u32,
    pub size: String,
    /// When its bytes were collected, if they were.
    pub collected_at: Option<Timestamp>,
    /// Where it is saved from.
    pub save: String,
    /// Where a browser shows it, when it can.
    pub view: Option<String>,
}

impl Shelf {
    /// Of a whole run: a longer list is grouped by job. `None`: there is nothing.
    pub fn of_run(run: &Run, rows: &[ArtifactRow]) -> Option<Self> {
        let group = |row: &ArtifactRow| (row.job.clone(), format!("?job={}", segment(&row.job)));
        Self::of(run, rows, String::new(), true, group)
    }

    /// Of one attempt: a longer list is grouped by folder.
    pub fn of_attempt(run: &Run, rows: &[ArtifactRow]) -> Option<Self> {
        let first = rows.first()?;
        let query = format!("?job={}&attempt={}", segment(&first.job), first.attempt);
        let group = |row: &ArtifactRow| match row.artifact.path.rsplit_once('/') {
            Some((folder, _)) => (folder.to_owned(), format!("{query}&path={}", segment(folder))),
            None => (".".to_owned(), query.clone()),
        };
        Self::of(run, rows, query.clone(), false, group)
    }

    fn of(
        run: &Run,
        rows: &[ArtifactRow],
        query: String,
        with_jobs: bool,
        group: impl Fn(&ArtifactRow) -> (String, String),
    ) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let total = rows.len();
        let mut groups = BTreeMap::<(String, String), Vec<&ArtifactRow>>::new();
        for row in rows {
            let key = if total <= FLAT_MAX { <(String, String)>::default() } else { group(row) };
            groups.entry(key).or_default().push(row);
        }
        let group = |((name, query), rows): ((String, String), Vec<&ArtifactRow>)| Group {
            name,
            size: size(rows.iter().copied()),
            open: total <= OPEN_MAX,
            query,
            files: rows.into_iter().map(|row| File::of(run, row)).collect(),
        };
        let some_there = rows.iter().any(|row| row.collected_at.is_none());
        let groups = groups.into_iter().map(group).collect();
        let archive = format!("{}/artifacts", link::api_run(&run.project, run.number));
        let (n_files, size) = (total, size(rows));
        Some(Self { n_files, size, archive, query, groups, some_there, with_jobs })
    }

    pub fn count(&self) -> String {
        show::count(self.n_files as u64)
    }

    /// Everything as one file.
    pub fn all(&self, suffix: &str) -> String {
        format!("{}.{suffix}{}", self.archive, self.query)
    }

    /// A group as one file.
    pub fn some(&self, group: &Group, suffix: &str) -> String {
        format!("{}.{suffix}{}", self.archive, group.query)
    }
}

fn size<'a>(rows: impl IntoIterator<Item = &'a ArtifactRow>) -> String {
    show::size(rows.into_iter().map(|row| row.artifact.n_bytes).sum())
}

impl File {
    fn of(run: &Run, row: &ArtifactRow) -> Self {
        let (path, attempt) = (&row.artifact.path, row.attempt);
        let job_link = link::job(&run.project, run.number, &row.job);
        let api = link::api_run(&run.project, run.number);
        let encoded = show::path(path);
        let save = format!("{api}/artifacts/{}/{encoded}?attempt={attempt}", segment(&row.job));
        let view = format!("{job_link}/files/{attempt}/{encoded}");
        Self {
            path: path.clone(),
            job: row.job.clone(),
            job_link,
            attempt,
            size: show::size(row.artifact.n_bytes),
            collected_at: row.collected_at,
            save,
            view: media::is_shown(path).then_some(view),
        }
    }
}

/// `GET /p/{project}/{number}/{job}/files/{attempt}/{path}`.
pub async fn view(
    State(app): State<App>,
    Segments((project, number, job, attempt, path)): Segments<(
        String,
        String,
        String,
        u32,
        String,
    )>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let row = run::find(&app, &project, &number).await?;
    match artifact::view(&app, &row, (&job, &path), attempt, &headers).await {
        Ok(answer) => Ok(answer),
        Err(error) => Ok(error::error_page(error.status(), &error.text())),
    }
}

//! A server, asked over HTTP with the types of `kiln_api::user`.
//!
//! The server is the one that `--server` or `KILN_SERVER` names; else the one that serves the data
//! folder, by its note `server.json`; else the default address.

mod find;
pub mod stream;

use std::time::Duration;

use kiln_api::user::{
    AddProject, ArtifactRow, AskGc, ErrorBody, GcReport, JobDetail, Project, Rerun, Run, RunDetail,
    TriggerRun, Usage, Why,
};
use kiln_model::Plan;
use reqwest::header::{CONTENT_TYPE, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Failure, Kind, Result};
pub use find::{DEFAULT_PORT, Note, ServerArgs};
use stream::Stream;

/// How long a server may take to accept a connection.
const CONNECT_FOR: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    url: String,
}

impl Client {
    /// A server at a known address. Nothing is sent yet.
    pub fn at(url: &str) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let is_secure = url.starts_with("https://");
        if !(is_secure || url.starts_with("http://")) || url.parse::<reqwest::Url>().is_err() {
            return Err(Failure::yours(format!("`{url}` is not the address of a server"))
                .help("an address is written http://127.0.0.1:7411 or https://kiln.example.org"));
        }
        // Once for the process; a second try is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_FOR);
        let http = match is_secure {
            true => http,
            // A proxy of the environment is for other machines; kiln's server is this one. And reading
            // a machine's certificates takes longer than most answers.
            false => http.no_proxy().tls_certs_only([]),
        };
        let http = http.build().map_err(Failure::ours)?;
        Ok(Self { http, url: url.to_owned() })
    }

    /// The address of a run's page.
    pub fn page(&self, project: &str, number: i64) -> String {
        format!("{}/p/{}/{number}", self.url, encode(project))
    }

    pub async fn projects(&self) -> Result<Vec<Project>> {
        self.get("/projects").await
    }

    pub async fn add_project(&self, new: &AddProject) -> Result<Project> {
        self.post("/projects", new).await
    }

    pub async fn remove_project(&self, project: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/projects/{}", encode(project)))).await?;
        Ok(())
    }

    pub async fn project(&self, project: &str) -> Result<Project> {
        self.get(&format!("/projects/{}", encode(project))).await
    }

    /// Newest first; of every project when `project` is absent.
    pub async fn runs(&self, project: Option<&str>, query: &[(&str, String)]) -> Result<Vec<Run>> {
        let path = match project {
            Some(project) => format!("/projects/{}/runs", encode(project)),
            None => "/runs".to_owned(),
        };
        self.read(self.request(Method::GET, &path).query(query)).await
    }

    pub async fn trigger(&self, project: &str, body: &TriggerRun) -> Result<Run> {
        self.post(&format!("/projects/{}/runs", encode(project)), body).await
    }

    pub async fn run(&self, project: &str, number: i64) -> Result<RunDetail> {
        self.get(&run_path(project, number, "")).await
    }

    pub async fn plan(&self, project: &str, number: i64) -> Result<Option<Plan>> {
        self.get(&run_path(project, number, "/plan")).await
    }

    pub async fn job(&self, project: &str, number: i64, job: &str) -> Result<JobDetail> {
        self.get(&run_path(project, number, &format!("/jobs/{}", encode(job)))).await
    }

    pub async fn why(&self, project: &str, number: i64, job: Option<&str>) -> Result<Why> {
        let rest = match job {
            Some(job) => format!("/jobs/{}/why", encode(job)),
            None => "/why".to_owned(),
        };
        self.get(&run_path(project, number, &rest)).await
    }

    pub async fn artifacts(&self, project: &str, number: i64) -> Result<Vec<ArtifactRow>> {
        self.get(&run_path(project, number, "/artifacts")).await
    }

    pub async fn artifact(
        &self,
        project: &str,
        number: i64,
        job: &str,
        path: &str,
    ) -> Result<Response> {
        let parts: Vec<String> = path.split('/').map(encode).collect();
        let rest = format!("/artifacts/{}/{}", encode(job), parts.join("/"));
        self.send(self.request(Method::GET, &run_path(project, number, &rest))).await
    }

    pub async fn cancel(&self, project: &str, number: i64) -> Result<()> {
        let by = self.request(Method::POST, &run_path(project, number, "/cancel"));
        self.send(by.json(&serde_json::json!({}))).await?;
        Ok(())
    }

    pub async fn rerun(&self, project: &str, number: i64, body: &Rerun) -> Result<()> {
        let request = self.request(Method::POST, &run_path(project, number, "/rerun")).json(body);
        self.send(request).await?;
        Ok(())
    }

    /// Keeps a run, or lets go of it.
    pub async fn pin(&self, project: &str, number: i64, pin: bool) -> Result<RunDetail> {
        let method = if pin { Method::POST } else { Method::DELETE };
        let by = self.request(method, &run_path(project, number, "/pin"));
        self.read(by.header("kiln-user", crate::place::user_name()).json(&serde_json::json!({})))
            .await
    }

    pub async fn gc(&self, asked: &AskGc) -> Result<GcReport> {
        self.post("/gc", asked).await
    }

    pub async fn usage(&self) -> Result<Usage> {
        self.get("/usage").await
    }

    /// A whole log, as it comes: of a job, or of a service of it.
    pub async fn log(
        &self,
        project: &str,
        number: i64,
        (job, service): (&str, Option<&str>),
        attempt: u32,
    ) -> Result<Response> {
        self.send(self.log_request(project, number, (job, service), attempt)).await
    }

    /// A part of a log by a `Range` header; empty when there is nothing there yet.
    pub async fn log_range(
        &self,
        project: &str,
        number: i64,
        job: &str,
        attempt: u32,
        range: &str,
    ) -> Result<Vec<u8>> {
        let log = self.log_request(project, number, (job, None), attempt);
        let request = log.header(RANGE, range);
        let answer = request.send().await.map_err(|error| self.away(error))?;
        match answer.status() {
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NO_CONTENT => return Ok(Vec::new()),
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            _ => {}
        }
        let answer = self.checked(answer).await?;
        Ok(answer.bytes().await.map_err(|error| self.away(error))?.to_vec())
    }

    /// A log from `from` on, live to its end.
    pub async fn log_live(
        &self,
        project: &str,
        number: i64,
        (job, service): (&str, Option<&str>),
        attempt: u32,
        from: u64,
    ) -> Result<Stream> {
        let path = run_path(project, number, &format!("{}/stream", log_path(job, service)));
        let query = [("attempt", u64::from(attempt)), ("from", from)];
        let request = self.request(Method::GET, &path).query(&query);
        Ok(Stream::new(self.send(request).await?))
    }

    /// Tells whenever the run has changed.
    pub async fn run_live(&self, project: &str, number: i64) -> Result<Stream> {
        let request = self.request(Method::GET, &run_path(project, number, "/live"));
        Ok(Stream::new(self.send(request).await?))
    }

    fn log_request(
        &self,
        project: &str,
        number: i64,
        (job, service): (&str, Option<&str>),
        attempt: u32,
    ) -> RequestBuilder {
        let path = run_path(project, number, &log_path(job, service));
        self.request(Method::GET, &path).query(&[("attempt", attempt)])
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(self.request(Method::GET, path)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.read(self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.url))
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let answer = self.send(request).await?;
        let bytes = answer.bytes().await.map_err(|error| self.away(error))?;
        serde_json::from_slice(&bytes).map_err(|error| Failure {
            kind: Kind::Elsewhere,
            error: anyhow::Error::new(error).context(format!(
                "the server at {} gave an answer that is not understood",
                self.url
            )),
            help: Some("is it the same version of kiln?".to_owned()),
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await.map_err(|error| self.away(error))?;
        self.checked(answer).await
    }

    /// An error answer as the error that it describes.
    async fn checked(&self, answer: Response) -> Result<Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let json = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            kind.to_str().is_ok_and(|kind| kind.starts_with("application/json"))
        });
        let bytes = answer.bytes().await.unwrap_or_default();
        let body = serde_json::from_slice::<ErrorBody>(&bytes).ok().filter(|_| json);
        let (message, help) = match body {
            // The rendered complaints about a manifest say so themselves.
            Some(body) => (body.message.trim_start_matches("error: ").to_owned(), body.help),
            None => (format!("the server at {} answered {status}", self.url), None),
        };
        let failure = match status.as_u16() {
            400..=499 => Failure::yours(message),
            _ => Failure::elsewhere(message),
        };
        Err(Failure { help, ..failure })
    }

    fn away(&self, error: reqwest::Error) -> Failure {
        if !error.is_connect() && !error.is_timeout() {
            let error = anyhow::Error::new(error.without_url())
                .context(format!("lost the connection to the server at {}", self.url));
            return Failure { kind: Kind::Elsewhere, error, help: None };
        }
        let why = deepest(&error);
        if why.contains("certificate") {
            let what = format!("the server at {} cannot be trusted: {why}", self.url);
            return Failure::elsewhere(what).help(
                "if its certificate is right, put that of its authority into the machine's store, or name \
                 the file with SSL_CERT_FILE",
            );
        }
        Failure::elsewhere(format!("no kiln server answers at {}: {why}", self.url))
            .help("start one with `kiln serve`, or name another with --server URL or KILN_SERVER")
    }
}

/// The first cause of a failed request in a few words: `connection refused`.
fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}

/// Where the log of a job is, or of one of its services, below its run.
fn log_path(job: &str, service: Option<&str>) -> String {
    let job = encode(job);
    match service {
        None => format!("/jobs/{job}/log"),
        Some(service) => format!("/jobs/{job}/services/{}/log", encode(service)),
    }
}

fn run_path(project: &str, number: i64, rest: &str) -> String {
    format!("/projects/{}/runs/{number}{rest}", encode(project))
}

/// A segment of a path, percent-encoded.
pub fn encode(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            // Alone, `.` and `..` would be taken for steps in the path.
            b'.' if segment != "." && segment != ".." => text.push('.'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(encode("test:15,linux"), "test%3A15%2Clinux");
        assert_eq!(encode(".."), "%2E%2E");
        assert_eq!(encode("a/b?c#d é"), "a%2Fb%3Fc%23d%20%C3%A9");
        assert_eq!(encode("app.tar.gz"), "app.tar.gz");
    }
}

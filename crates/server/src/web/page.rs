//! What surrounds every page: title, way back, assets, and the headers it is sent with.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kiln_stdx::Timestamp;

use super::asset;
use super::show::segment;

/// Nothing but our own scripts, styles and pictures, and no page of others around ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// The frame of a page, as `templates/base.html` wants it.
pub struct Frame {
    pub title: String,
    /// State of the run that the page is about: shown in the browser's tab.
    pub state: Option<&'static str>,
    /// From the project down to this page.
    pub trail: Vec<Crumb>,
    /// Where the same data is JSON.
    pub twin: Option<String>,
    /// Server-sent events that tell when to look again.
    pub events: Option<String>,
    /// Something on the page is still going on.
    pub live: bool,
    pub now: Timestamp,
    pub base: String,
}

/// One part of the way from the list of projects to a page.
pub struct Crumb {
    pub text: String,
    pub link: String,
}

impl Frame {
    pub fn new(title: impl Into<String>, now: Timestamp) -> Self {
        Self {
            title: title.into(),
            state: None,
            trail: Vec::new(),
            twin: None,
            events: None,
            live: false,
            now,
            base: asset::base(),
        }
    }

    /// The picture in the browser's tab.
    pub fn mark(&self) -> String {
        match self.state {
            Some(word) => format!("{}/mark-{word}.svg", self.base),
            None => format!("{}/mark.svg", self.base),
        }
    }
}

/// Addresses of pages and of their twins.
pub mod link {
    use super::segment;

    pub fn project(project: &str) -> String {
        format!("/p/{}", segment(project))
    }

    pub fn run(project: &str, number: i64) -> String {
        format!("/p/{}/{number}", segment(project))
    }

    pub fn job(project: &str, number: i64, job: &str) -> String {
        format!("/p/{}/{number}/{}", segment(project), segment(job))
    }

    pub fn api_project(project: &str) -> String {
        format!("/api/v1/projects/{}", segment(project))
    }

    pub fn api_run(project: &str, number: i64) -> String {
        format!("/api/v1/projects/{}/runs/{number}", segment(project))
    }

    pub fn api_job(project: &str, number: i64, job: &str) -> String {
        format!("{}/jobs/{}", api_run(project, number), segment(job))
    }
}

/// Sends a page.
pub fn send(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (
            status,
            [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::REFERRER_POLICY, "same-origin"),
                (header::CACHE_CONTROL, "no-cache"),
            ],
            html,
        )
            .into_response(),
        Err(error) => {
            // Only a bug in a template comes here, and then the error page may not work either.
            let text = format!("500: the page could not be made: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

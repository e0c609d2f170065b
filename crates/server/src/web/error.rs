//! Pages that say what went wrong and where to go from there.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_stdx::{Clock, SystemClock};
use kiln_store::StoreError;

use super::page::{self, Frame};
use super::show;
use crate::ask::AskError;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    status: u16,
    headline: &'static str,
    message: &'a str,
}

/// A page for people about a request that failed. `message` is one sentence or a few.
pub fn error_page(status: StatusCode, message: &str) -> Response {
    let headline = match status.as_u16() {
        400 => "That request makes no sense",
        403 => "That is not allowed",
        404 => "Nothing is here",
        405 => "That cannot be done here",
        409 => "That does not fit what is happening",
        503 => "Not right now",
        500..=599 => "Something broke on our side",
        _ => "That did not work",
    };
    let frame = Frame::new(format!("{} {headline}", status.as_u16()), SystemClock.now());
    page::send(status, &ErrorPage { frame, status: status.as_u16(), headline, message })
}

/// Why a page could not be made.
pub enum PageError {
    /// What there is not, as a sentence.
    Missing(String),
    /// The request is wrong in a way that the person can mend.
    Bad(String),
    /// Right, and not now.
    Conflict(String),
    Ours(String),
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::Missing(format!("There is no such {what}.")),
            error => Self::Ours(format!("{error}")),
        }
    }
}

impl From<AskError> for PageError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Wrong { message, help, .. } => {
                let help = help.map(|help| format!("\n{help}")).unwrap_or_default();
                Self::Bad(message + &help)
            }
            AskError::NotFound { message, .. } => Self::Missing(message),
            AskError::Conflict { message, .. } => Self::Conflict(message),
            AskError::Git(_) | AskError::Store(_) => Self::Ours(error.to_string()),
        }
    }
}

impl axum::response::IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::Missing(message) => error_page(StatusCode::NOT_FOUND, &message),
            Self::Bad(message) => error_page(StatusCode::BAD_REQUEST, &message),
            Self::Conflict(message) => error_page(StatusCode::CONFLICT, &message),
            Self::Ours(message) => error_page(StatusCode::INTERNAL_SERVER_ERROR, &message),
        }
    }
}

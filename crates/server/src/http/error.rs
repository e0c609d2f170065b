//! One shape for everything that goes wrong.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kiln_api::user::ErrorBody;
use kiln_store::StoreError;

use crate::ask::{AskError, code_of};
use crate::report;

/// An answer that is an error: a status for programs, a code for scripts, a sentence for people.
#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    body: ErrorBody,
}

impl Error {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody { code: code.to_owned(), message: message.into(), help: None },
        }
    }

    pub fn not_found(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code_of(what), format!("there is no such {what}"))
    }

    /// As [`Error::not_found`], with its name.
    pub fn missing(what: &'static str, name: &str) -> Self {
        // As long as a name can be, and then some: enough to recognise a slip.
        const SHOWN_CHARS_MAX: usize = 120;
        let shown: String =
            name.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect();
        Self::new(StatusCode::NOT_FOUND, code_of(what), format!("there is no {what} `{shown}`"))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// Not the asker's fault: told in the server's own report too.
    pub fn ours(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::told(StatusCode::INTERNAL_SERVER_ERROR, "internal", error)
    }

    fn told(status: StatusCode, code: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let message = report::whole(error);
        report::say(&format!("request failed: {message}"));
        Self::new(status, code, message)
    }

    /// With the way out.
    pub fn help(mut self, help: String) -> Self {
        self.body.help = Some(help);
        self
    }

    /// What went wrong, as a sentence, and the way out.
    pub fn text(&self) -> String {
        let help = self.body.help.as_ref().map(|help| format!("\n{help}"));
        format!("{}{}", self.body.message, help.unwrap_or_default())
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        AskError::from(error).into()
    }
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        let message = error.to_string();
        match error {
            AskError::Wrong { code, message, help } => {
                let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message);
                error.body.help = help;
                error
            }
            AskError::NotFound { code, .. } => Self::new(StatusCode::NOT_FOUND, code, message),
            AskError::Conflict { code, .. } => Self::new(StatusCode::CONFLICT, code, message),
            AskError::Git(git) if git.is_elsewhere() => {
                Self::new(StatusCode::BAD_GATEWAY, "repository_unreachable", message)
            }
            AskError::Git(git) => Self::ours(&git),
            AskError::Store(store @ StoreError::Conflict(_)) => {
                Self::new(StatusCode::CONFLICT, "conflict", store.to_string())
            }
            // The disk, the database: somebody can mend it, and then the same request will do.
            AskError::Store(store) => {
                Self::told(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", &store)
            }
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::ours(&error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

//! Arguments of pages. What cannot be read is answered with a page, never with a bare line of text.

use axum::extract::{Form, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::PageError;

/// Parts of the path, decoded.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = PageError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        // A name that is not even text names nothing.
        let missing = |_| PageError::Missing("There is no page at this address.".to_owned());
        Path::<T>::from_request_parts(parts, state).await.map(|Path(it)| Self(it)).map_err(missing)
    }
}

/// What stands behind the question mark.
pub struct Question<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Question<T> {
    type Rejection = PageError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, PageError> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(it)| Self(it)).map_err(|error| wrong("The address", &error))
    }
}

/// The fields of a form.
pub struct Fields<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Fields<T> {
    type Rejection = PageError;
    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        let read = Form::<T>::from_request(request, state).await;
        read.map(|Form(it)| Self(it)).map_err(|error| wrong("The form", &error))
    }
}

fn wrong(what: &str, error: &dyn std::error::Error) -> PageError {
    // The library's own sentence names its types; the cause under it names the field.
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    PageError::Bad(format!("{what} cannot be read: {cause}."))
}

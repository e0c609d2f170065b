//! The pages: made by the server, complete without a script, alive with one.
//!
//! A handler reads what `view` gives, a pure function makes the page from it (tested without a
//! server), and the scripts in `static/` keep it fresh: told by server-sent events that something
//! changed, they fetch the same page again and change the document where the two differ. So each
//! page is written once, in one language, and its JSON twin under `/api/v1` stays what it is.
//!
//! Always: what came from a repository or a person is escaped; no script or style stands in the
//! page itself (the content security policy of [`page`] forbids it); a state is told by colour,
//! icon and word.

mod page;
mod project;
mod run_list;
mod start;
mod run;
mod graph;
mod timeline;
mod job;
mod artifact;
mod log;
mod act;
mod show;
mod asset;
mod error;
mod extract;
#[cfg(test)]
mod sample;

use axum::Router;
use axum::routing::{get, post};

use crate::state::App;

pub use error::error_page;

/// Every page, and what the pages load.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(project::list))
        .route("/p/{project}", get(run_list::show))
        .route("/p/{project}/run", get(start::show).post(act::trigger))
        .route("/p/{project}/{number}", get(run::show))
        .route("/p/{project}/{number}/cancel", post(act::cancel))
        .route("/p/{project}/{number}/rerun", post(act::rerun))
        .route("/p/{project}/{number}/pin", post(act::pin))
        .route("/p/{project}/{number}/{job}", get(job::show))
        .route("/p/{project}/{number}/{job}/files/{attempt}/{*path}", get(artifact::view))
        .route("/static/{digest}/{name}", get(asset::serve))
        .route("/favicon.ico", get(asset::favicon))
}

//! Every route, by audience.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::guard::Hosts;
use super::{Error, artifact, gc, guard, job, live, log, log_stream, project, push, run, scene};
use crate::state::App;
use crate::web;

/// For who comes over TCP.
pub fn public(app: &App, address: SocketAddr) -> Router {
    let hosts = Arc::new(Hosts::new(address, &app.options.hosts));
    everybody()
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn(guard::body))
        .layer(middleware::from_fn_with_state(hosts, guard::origin))
        .layer(middleware::from_fn(guard::headers))
        .with_state(app.clone())
}

/// For who may open the socket in the data folder: the same, and what hooks tell.
pub fn private(app: &App) -> Router {
    everybody()
        .route("/internal/push", post(push::take))
        .route("/internal/scene", post(scene::show))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn(guard::body))
        .layer(middleware::from_fn(guard::headers))
        .with_state(app.clone())
}

fn everybody() -> Router<App> {
    Router::new().merge(web::routes()).nest("/api/v1", user())
}

/// The JSON twins of the pages, and the questions that the command line asks.
fn user() -> Router<App> {
    Router::new()
        .route("/live", get(live::lists))
        .route("/runs", get(run::every))
        .route("/gc", post(gc::collect))
        .route("/usage", get(gc::usage))
        .route("/projects", get(project::list).post(project::add))
        .route("/projects/{project}", get(project::show).delete(project::remove))
        .route("/projects/{project}/inputs", get(project::inputs))
        .route("/projects/{project}/runs", get(run::list).post(run::trigger))
        .nest("/projects/{project}/runs/{number}", one_run())
}

fn one_run() -> Router<App> {
    Router::new()
        .route("/", get(run::show))
        .route("/plan", get(run::plan))
        .route("/events", get(run::events))
        .route("/why", get(run::why))
        .route("/live", get(live::run))
        .route("/cancel", post(run::cancel))
        .route("/rerun", post(run::rerun))
        .route("/pin", post(gc::pin).delete(gc::unpin))
        .route("/artifacts", get(artifact::list))
        .route("/artifacts.tar", get(artifact::tar))
        .route("/artifacts.tar.zst", get(artifact::tar_zst))
        .route("/artifacts.zip", get(artifact::zip))
        .route("/artifacts/{job}/{*path}", get(artifact::get))
        .route("/jobs/{job}", get(job::show))
        .route("/jobs/{job}/why", get(job::why))
        .route("/jobs/{job}/log", get(log::whole))
        .route("/jobs/{job}/log/lines", get(log::lines))
        .route("/jobs/{job}/log/search", get(log::search))
        .route("/jobs/{job}/log/stream", get(log_stream::stream))
        .route("/jobs/{job}/services/{service}/log", get(log::whole))
        .route("/jobs/{job}/services/{service}/log/lines", get(log::lines))
        .route("/jobs/{job}/services/{service}/log/search", get(log::search))
        .route("/jobs/{job}/services/{service}/log/stream", get(log_stream::stream))
}

/// Machines get JSON, people a page.
async fn nothing(request: Request) -> Response {
    let path = request.uri().path();
    match is_machines(path) {
        true => Error::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
            .into_response(),
        false => web::error_page(StatusCode::NOT_FOUND, "There is no page at this address."),
    }
}

async fn not_so(request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path());
    let message = format!("{method} is not possible here");
    match is_machines(path) {
        true => Error::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            .into_response(),
        false => web::error_page(StatusCode::METHOD_NOT_ALLOWED, &message),
    }
}

fn is_machines(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/") || path.starts_with("/internal/")
}

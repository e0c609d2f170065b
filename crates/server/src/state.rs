//! What every handler and every reconciler shares.
//!
//! One value, cheap to clone. Nothing here is truth: rows are in the store, and whoever restarts
//! the server loses nothing of it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kiln_stdx::Clock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::collect::Collector;
use crate::mirrors::Mirrors;
use crate::reconcile::Reconcilers;
use crate::runs::{Places, Runs};

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Everything that it keeps.
    pub data: PathBuf,
    /// `ADDRESS:PORT`; port 0 takes a free one.
    pub listen: String,
    /// `postgres://…`; absent: SQLite in the data folder.
    pub database: Option<String>,
    /// Other machines may reach it. Until people can log in, whoever reaches it may do everything.
    pub allow_remote: bool,
    /// What is kept for how long; absent: `kiln.toml` in the data folder, if it is there.
    pub config: Option<PathBuf>,
    /// Further names by which browsers may call it (`Host`), without port.
    pub hosts: Vec<String>,
    /// Where this machine's Docker daemon listens; for [`JobPolicy::daemon_socket`].
    ///
    /// [`JobPolicy::daemon_socket`]: kiln_model::policy::JobPolicy::daemon_socket
    pub daemon_socket: Option<String>,
}

impl ServeOptions {
    /// On loopback, with everything else as it is when nothing is said.
    pub fn new(data: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            listen: listen.into(),
            database: None,
            allow_remote: false,
            config: None,
            hosts: Vec::new(),
            daemon_socket: None,
        }
    }
}

impl ServeOptions {
    /// The configuration file, be it there or not.
    pub fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.data.join("kiln.toml"))
    }
}

/// What every handler and every reconciler shares.
#[derive(Clone)]
pub struct App {
    pub runs: Runs,
    pub clock: Arc<dyn Clock>,
    pub places: Places,
    pub options: Arc<ServeOptions>,
    /// Where people reach it: `http://127.0.0.1:7411`.
    pub url: Arc<str>,
    pub mirrors: Mirrors,
    pub reconcilers: Reconcilers,
    /// Absent until it is known where layers are ([`crate::Server::collects`]).
    pub collector: Arc<OnceLock<Collector>>,
    /// Whatever goes on beside its request; awaited when the server stops.
    pub tasks: TaskTracker,
    /// Cancelled when the server stops: streams end, so that readers reconnect elsewhere or later.
    pub stopping: CancellationToken,
}

//! Starting and stopping.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kiln_api::layers::Layers;
use kiln_model::policy::JobPolicy;
use kiln_stdx::fs::{FsError, create_private_dir};
use kiln_stdx::{Clock, SystemClock};
use kiln_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listen::{self, ListenError};
use super::{accept, socket};
use crate::collect::{self, Background, Collector, Policy, PolicyError};
use crate::config::ConfigError;
use crate::govern::Governor;
use crate::http;
use crate::mirrors::Mirrors;
use crate::reconcile::{self, Reconcilers};
use crate::runs::{Places, Runs};
use crate::state::{App, ServeOptions};

/// How long requests may take to end when the server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Why a server did not start. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    File(#[from] FsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running server.
pub struct Server {
    app: App,
    address: SocketAddr,
}

impl Server {
    /// Opens the data folder, takes over what is not over, listens. It answers when this returns.
    pub async fn start(options: ServeOptions) -> Result<Self, ServeError> {
        // First what costs nothing and fails most often, so that it fails without a trace.
        let at = listen::address(&options.listen, options.allow_remote)?;
        let daemon_socket = options.daemon_socket.clone();
        let usual = JobPolicy { daemon_socket, ..JobPolicy::of_server() };
        let governor = Governor::read(usual, options.config_file())?;
        let door = listen::bind(at).await?;
        let address = door.local_addr().map_err(|cause| ListenError::Failed { at, cause })?;
        create_private_dir(&options.data)?;
        collect::make_room(&options.data);
        let places = Places::new(&options.data);
        let store = Store::open(&options.data, options.database.as_deref(), true).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let runs = Runs::open(store, places.clone(), clock.clone()).await?;
        runs.govern(governor);
        runs.adopt_active().await?;
        let local = socket::bind(&places.socket())?;
        let app = App {
            runs,
            clock,
            mirrors: Mirrors::new(places.clone()),
            places,
            options: Arc::new(options),
            url: format!("http://{address}").into(),
            reconcilers: Reconcilers::default(),
            collector: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let tasks = &app.tasks;
        let stopping = || app.stopping.clone();
        let (public, private) = (http::public(&app, address), http::private(&app));
        tasks.spawn(accept::accept(door, public, tasks.clone(), stopping()));
        tasks.spawn(accept::accept(local, private, tasks.clone(), stopping()));
        tasks.spawn(reconcile::run(app.clone()));
        Ok(Self { app, address })
    }

    /// From now on it collects what is no longer wanted, in the background and when asked.
    ///
    /// Fails when the configuration cannot be read.
    pub fn collects(&self, layers: Arc<dyn Layers>) -> Result<(), PolicyError> {
        let config = self.app.options.config_file();
        let policy = Policy::of_server().read(&config)?;
        self.app.runs.note_layers(layers.clone());
        let collector = Collector::new(&self.app.runs, layers);
        let background = Background::new(collector.clone(), config, policy);
        if self.app.collector.set(collector).is_ok() {
            self.app.tasks.spawn(background.run(self.app.clone()));
        }
        Ok(())
    }

    /// Where it listens, with the port that it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where people reach it: `http://127.0.0.1:7411`.
    pub fn url(&self) -> &str {
        &self.app.url
    }

    /// For an agent in the same process.
    pub fn runs(&self) -> &Runs {
        &self.app.runs
    }

    /// For who drives the server without HTTP.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Takes no more connections, lets requests end, ends streams. All that matters is on disk
    /// already.
    pub async fn stop(self) {
        self.app.stopping.cancel();
        self.app.tasks.close();
        let _ = tokio::time::timeout(DRAIN_WITHIN, self.app.tasks.wait()).await;
        // Best effort: a left-over socket is removed by the next server.
        let _ = std::fs::remove_file(self.app.places.socket());
    }
}

//! Which server is meant.

use std::env;
use std::path::PathBuf;

use clap::Args;
use kiln_stdx::fs::write_atomic;
use serde::{Deserialize, Serialize};

use super::Client;
use crate::error::{Failure, Result};
use crate::place::Data;

/// Where `kiln serve` listens when nothing is said.
pub const DEFAULT_PORT: u16 = 7411;

/// Arguments of every command that may ask a server.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// The server's address [env: KILN_SERVER]
    #[arg(long, value_name = "URL", help_heading = "Server", global = true)]
    pub server: Option<String>,
    /// The data folder of a server on this machine [env: KILN_DATA]
    #[arg(long, value_name = "DIR", help_heading = "Server", global = true)]
    pub data: Option<PathBuf>,
}

impl ServerArgs {
    /// The person named a server, by an argument or in the environment.
    pub fn given(&self) -> bool {
        self.server.is_some() || self.data.is_some() || server_of_environment().is_some()
    }

    pub fn client(&self) -> Result<Client> {
        // A named folder is more exact than a variable that was set long ago.
        let named = match (&self.server, &self.data) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(_)) => None,
            (None, None) => server_of_environment(),
        };
        if let Some(url) = named {
            return Client::at(&url);
        }
        let data = Data::find(self.data.as_deref())?;
        match Note::read(&data) {
            Some(note) => Client::at(&note.url),
            None if self.data.is_some() => Err(Failure::elsewhere(format!(
                "no kiln server serves the data folder `{}`",
                data.root.display()
            ))
            .help(format!("start one with `kiln serve --data {}`", data.root.display()))),
            None => Client::at(&format!("http://127.0.0.1:{DEFAULT_PORT}")),
        }
    }
}

fn server_of_environment() -> Option<String> {
    env::var("KILN_SERVER").ok().filter(|url| !url.is_empty())
}

/// What `kiln serve` leaves in its data folder while it runs. A stale one does no harm: nobody
/// answers there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    pub url: String,
    pub pid: i32,
}

impl Note {
    pub fn read(data: &Data) -> Option<Self> {
        let bytes = std::fs::read(data.server_note()).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn write(data: &Data, url: &str) -> Result<()> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let note = Self { url: url.to_owned(), pid };
        let text = serde_json::to_vec(&note).map_err(Failure::ours)?;
        Ok(write_atomic(&data.server_note(), &text)?)
    }

    /// Takes it away, unless another server has written its own since.
    pub fn remove(data: &Data) {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        if Self::read(data).is_some_and(|note| note.pid == pid) {
            let _ = std::fs::remove_file(data.server_note());
        }
    }
}

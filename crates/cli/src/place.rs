//! Which folders this process uses: the data folder and what lies in it.
//!
//! ```text
//! <data>/            of `kiln serve`: its database, logs, mirrors, socket
//! <data>/server.json who serves this folder: read by the other commands
//! <data>/local/      of `kiln run`: the same layout again, and `run/` for what is going on
//! ```
//!
//! The two never share a database, so that `kiln serve` and `kiln run` may be given one folder.

use std::env;
use std::path::{Path, PathBuf};

use kiln_server::runs::Places;
use kiln_stdx::fs::{Named, create_private_dir};

use crate::error::{Failure, Help, Result};

/// One data folder.
#[derive(Clone, Debug)]
pub struct Data {
    pub root: PathBuf,
}

impl Data {
    /// `given`, else `$KILN_DATA`, else the user's data folder. Absolute.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let root = match given {
            Some(given) => given.to_owned(),
            None => default_root()?,
        };
        if root.as_os_str().is_empty() {
            return Err(Failure::yours("the data folder's name is empty"));
        }
        let root = std::path::absolute(&root).named("find", &root)?;
        // One name for one folder; what is not there yet keeps the one it was given.
        Ok(Self { root: root.canonicalize().unwrap_or(root) })
    }

    /// What the server keeps.
    pub fn server(&self) -> Places {
        Places::new(&self.root)
    }

    /// What `kiln run` keeps.
    pub fn local(&self) -> Places {
        Places::new(&self.root.join("local"))
    }

    /// Marks of local runs that are going on.
    pub fn running(&self) -> PathBuf {
        self.root.join("local").join("run")
    }

    /// The configuration file, be it there or not.
    pub fn config(&self) -> PathBuf {
        self.root.join("kiln.toml")
    }

    /// Where `kiln serve` says how it can be reached.
    pub fn server_note(&self) -> PathBuf {
        self.root.join("server.json")
    }

    /// Makes the folders of `kiln run`.
    pub fn make_local(&self) -> Result<()> {
        create_private_dir(&self.running())
            .map_err(Failure::from)
            .help("choose another folder with KILN_DATA")
    }
}

fn default_root() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(data) = set("KILN_DATA") {
        return Ok(data);
    }
    // The XDG rules: a relative path there is to be ignored.
    if let Some(data) = set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return Ok(data.join("kiln"));
    }
    match env::home_dir().filter(|home| home.is_absolute()) {
        Some(home) => Ok(home.join(".local/share/kiln")),
        None => Err(Failure::elsewhere("there is no home folder to keep data in")
            .help("name a data folder with KILN_DATA")),
    }
}

/// Who asks, for the history of a run.
pub fn user_name() -> String {
    ["KILN_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))
        .or_else(account_name)
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// What the machine calls the user; a service has no `USER`.
fn account_name() -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The folder that `-C` names, or the present one.
pub fn directory(given: Option<&Path>) -> Result<PathBuf> {
    let at = given.unwrap_or(Path::new("."));
    let at = at
        .canonicalize()
        .named("enter", at)
        .map_err(|error| Failure { kind: crate::error::Kind::Yours, ..Failure::from(error) })?;
    if at.is_dir() {
        Ok(at)
    } else {
        Err(Failure::yours(format!("`{}` is not a folder", at.display())))
    }
}

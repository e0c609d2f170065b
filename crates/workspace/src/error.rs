//! What can go wrong with layers.

use std::path::PathBuf;

use kiln_model::layer::LayerId;
use kiln_stdx::fs::FsError;

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("not on this machine: {}", list(.0))]
    Missing(Vec<LayerId>),
    #[error("containers need overlays, which this machine cannot mount; `kiln doctor` says why")]
    NoOverlay,
    #[error("`{0}` cannot be the name of a folder")]
    Name(String),
    #[error("the working tree `{}` is not a folder", .0.display())]
    NoWorkingTree(PathBuf),
    #[error("cannot make the source `{tree}`: {message}")]
    Fill { tree: String, message: String },
    #[error("cannot make the `.git` of `{name}`: {message}")]
    Git { name: String, message: String },
    #[error("the workspace of attempt `{0}` is not there")]
    NoAttempt(String),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("{0}")]
    Other(String),
}

fn list(layers: &[LayerId]) -> String {
    layers.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn name(layer: &LayerId) -> String {
    match layer {
        LayerId::Source(tree) => format!("the source `{tree}`"),
        LayerId::Attempt(attempt) => format!("the files of attempt `{attempt}`"),
        LayerId::Boundary(boundary) => format!("the files as step `{boundary}` found them"),
        LayerId::Cache(entry) => format!("the cache `{entry}`"),
    }
}

//! The folders of one data folder.

use std::path::{Path, PathBuf};

use kiln_model::ProjectId;

#[derive(Clone, Debug)]
pub struct Places {
    pub data: PathBuf,
}

impl Places {
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    pub fn objects(&self) -> PathBuf {
        self.data.join("objects")
    }

    pub fn mirror(&self, project: ProjectId) -> PathBuf {
        self.data.join("mirrors").join(project.to_string())
    }

    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// What files of working trees are called by their content.
    pub fn digests(&self) -> PathBuf {
        self.data.join("digests")
    }

    /// What is known of images; their layers are among the others.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub fn keys(&self) -> PathBuf {
        self.data.join("keys")
    }

    /// Pushes that arrived while no server was there to take them.
    pub fn inbox(&self) -> PathBuf {
        self.data.join("inbox")
    }

    pub fn socket(&self) -> PathBuf {
        self.data.join("kiln.sock")
    }
}

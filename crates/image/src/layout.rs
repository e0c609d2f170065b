//! Images in a folder: OCI's image layout, as `skopeo copy … oci:DIR:TAG` and `docker buildx` write it.
//!
//! Source: github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md

use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_model::layer::Digest;

use crate::blob::{self, Budget};
use crate::images::LayerStore;
use crate::limit::{CONFIG_BYTES_MAX, DEPTH_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Document, Manifest, choose};
use crate::{Files, Image, ImageError};

/// The annotation that is a tag.
const TAG: &str = "org.opencontainers.image.ref.name";

pub(crate) struct Layout<'a> {
    pub name: &'a str,
    pub files: &'a dyn Files,
    pub path: &'a Path,
}

impl Layout<'_> {
    /// Reads what the tag leads to and unpacks the layers that are not there. Blocking.
    pub fn load(
        &self,
        tag: Option<&str>,
        (store, budget): (&dyn LayerStore, &Budget),
    ) -> Result<Image, ImageError> {
        let index = self.small(Path::new("index.json"), MANIFEST_BYTES_MAX)?;
        let Document::Index(entries) = Document::read(self.name, &index)? else {
            return Err(ImageError::damaged(self.name, "its `index.json` is no index"));
        };
        let entry = self.tagged(&entries, tag)?;
        let (digest, manifest) = self.manifest(entry, 0)?;
        let config = self.blob(&manifest.config, CONFIG_BYTES_MAX)?;
        let image = Image::read(self.name, digest, &config)?;
        if image.layers.len() != manifest.layers.len() {
            return Err(ImageError::damaged(
                self.name,
                "manifest and configuration differ in layers",
            ));
        }
        for (diff_id, sent) in image.layers.iter().zip(&manifest.layers) {
            if !store.has(diff_id) {
                let (_, file) = self.open(&blob_path(&sent.sha256(self.name)?))?;
                blob::unpack(self.name, diff_id, file.take(sent.size), budget, store)?;
            }
        }
        Ok(image)
    }

    fn tagged<'d>(
        &self,
        entries: &'d [Descriptor],
        tag: Option<&str>,
    ) -> Result<&'d Descriptor, ImageError> {
        let unknown = |why: String| ImageError::Unknown { name: self.name.to_owned(), why };
        let tags = || {
            let tags: Vec<&str> =
                entries.iter().filter_map(|e| e.annotations.get(TAG)).map(String::as_str).collect();
            if tags.is_empty() {
                "no tags".to_owned()
            } else {
                format!("the tags {}", tags.join(", "))
            }
        };
        match tag {
            Some(tag) => entries
                .iter()
                .find(|entry| entry.annotations.get(TAG).is_some_and(|known| known == tag))
                .ok_or_else(|| unknown(format!("the layout has {}", tags()))),
            None if entries.iter().all(|entry| !entry.annotations.contains_key(TAG)) => {
                choose(self.name, entries)
            }
            None => match entries {
                [only] => Ok(only),
                _ => entries
                    .iter()
                    .find(|entry| entry.annotations.get(TAG).is_some_and(|tag| tag == "latest"))
                    .ok_or_else(|| unknown(format!("say which: the layout has {}", tags()))),
            },
        }
    }

    fn manifest(&self, entry: &Descriptor, depth: usize) -> Result<(Digest, Manifest), ImageError> {
        if depth > DEPTH_MAX {
            return Err(ImageError::damaged(
                self.name,
                "its indexes lead to one another without end",
            ));
        }
        let digest = entry.sha256(self.name)?;
        match Document::read(self.name, &self.blob(entry, MANIFEST_BYTES_MAX)?)? {
            Document::Manifest(manifest) => Ok((digest, manifest)),
            Document::Index(entries) => self.manifest(choose(self.name, &entries)?, depth + 1),
        }
    }

    fn blob(&self, entry: &Descriptor, most: u64) -> Result<Vec<u8>, ImageError> {
        let digest = entry.sha256(self.name)?;
        blob::checked(self.name, self.small(&blob_path(&digest), most)?, &digest)
    }

    fn small(&self, path: &Path, most: u64) -> Result<Vec<u8>, ImageError> {
        let (path, file) = self.open(path)?;
        let mut bytes = Vec::new();
        let read = file.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|cause| file_error(self.name, &path, &cause))?;
        match bytes.len() as u64 > most {
            true => {
                Err(ImageError::damaged(self.name, format!("`{}` is too large", path.display())))
            }
            false => Ok(bytes),
        }
    }

    fn open(&self, path: &Path) -> Result<(PathBuf, std::fs::File), ImageError> {
        let path = self.path.join(path);
        match self.files.open(&path) {
            Ok(file) => Ok((path, file)),
            Err(cause) => Err(file_error(self.name, &path, &cause)),
        }
    }
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.as_str())
}

pub(crate) fn file_error(name: &str, path: &Path, cause: &std::io::Error) -> ImageError {
    let why = match cause.kind() {
        std::io::ErrorKind::NotFound => "there is no such file in the repository".to_owned(),
        _ => cause.to_string(),
    };
    ImageError::File { name: name.to_owned(), path: path.to_owned(), why }
}

//! What the archive takes away from the layers below it.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::FsError;
use rustix::fs::{self as sys, FileType, Mode};

use super::{Marks, Unpack, hash, held};
use crate::archive::UnpackError;
use crate::tree;

impl<R: Read> Unpack<'_, R> {
    pub(super) fn white_out(&mut self, entry: PathBuf) -> Result<(), UnpackError> {
        if self.is_image() && self.made.contains(&hash(&entry)) {
            // It is the one below that is gone; what came before in this layer stays.
            return match self.folders.contains_key(&entry) {
                true => self.opaque(&entry),
                false => Ok(()),
            };
        }
        self.note(&entry, false)?;
        self.hold(&entry, None)?;
        self.unpacked.n_gone += 1;
        match self.marks {
            Marks::Record => {
                // So that its folder is part of the layer.
                self.folder_of(entry.parent().unwrap_or(Path::new("")))?;
                self.gone.deleted.push(entry);
                Ok(())
            }
            Marks::Overlay { .. } | Marks::Image { .. } => self.make(&entry, |folder, name| {
                sys::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0)
            }),
            Marks::Apply => {
                let name = entry.file_name().unwrap_or_default();
                let folder = self.folder_of(entry.parent().unwrap_or(Path::new("")))?;
                Ok(tree::remove(&held(folder, name))?)
            }
        }
    }

    pub(super) fn opaque(&mut self, folder: &Path) -> Result<(), UnpackError> {
        self.hold(folder, None)?;
        self.unpacked.n_gone += 1;
        let marks = self.marks;
        let real = self.into.join(folder);
        let opened = self.folder_of(folder)?;
        match marks {
            Marks::Record => self.gone.opaque.push(folder.to_owned()),
            Marks::Overlay { user } | Marks::Image { user } => {
                tree::make_opaque(&held(opened, OsStr::new(".")), user)?
            }
            Marks::Apply => {
                let at = held(opened, OsStr::new("."));
                for (path, _) in tree::entries(&at)? {
                    let name = path.file_name().unwrap_or_default();
                    // What the archive has brought before is not what was below.
                    let own = folder.join(name);
                    let ours = self.made.contains(&hash(&own)) || self.folders.contains_key(&own);
                    if !ours {
                        tree::remove(&path)
                            .map_err(|error| FsError { path: real.join(name), ..error })?;
                    }
                }
            }
        }
        Ok(())
    }
}

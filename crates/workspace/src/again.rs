//! A workspace that a job left as it had found it, for the next job on the same layers.
//!
//! Making a workspace and taking it away costs more than many a job: the kernel alone makes and
//! removes half a dozen files for each mount. One that nothing was written to is as good as new.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_model::AttemptId;
use kiln_stdx::fs::{FsError, Named};
use kiln_stdx::overlay::Mount;

use crate::workspaces::{UPPER, WORK};
use crate::{Prepared, WorkspaceError, Workspaces, step, tree};

/// How an attempt's folder looked before its job.
#[derive(Debug, PartialEq, Eq)]
pub struct Untouched {
    /// What lies in the attempt's own folder.
    names: Vec<OsString>,
    upper: Looks,
}

/// The attributes of an upper folder. Its times change with whatever happens in it, and what is
/// written anywhere in the workspace begins with an entry in it.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Workspaces {
    /// What to compare with after the job; `None` when nothing can be told, which is so for copies.
    /// To be asked when the session is open.
    pub fn untouched(&self, attempt: AttemptId) -> Option<Untouched> {
        look(&self.attempt_dir(attempt)).ok()?
    }

    /// Whether the job has written nothing at all: no file, no output, no attribute. To be asked when
    /// its processes are gone.
    pub fn is_untouched(&self, attempt: AttemptId, before: &Untouched) -> bool {
        self.untouched(attempt).is_some_and(|now| now == *before)
    }

    /// Gives an untouched workspace, still mounted, to another attempt. `prepared` is what it was
    /// made as.
    pub fn hand_on(
        &self,
        from: AttemptId,
        to: AttemptId,
        prepared: &Prepared,
    ) -> Result<Prepared, WorkspaceError> {
        // What the attempt had before is gone, as when it is prepared.
        self.discard(to)?;
        let dir = self.attempt_dir(to);
        step::forget(&self.attempt_dir(from))?;
        fs::rename(self.attempt_dir(from), &dir).named("create", &dir)?;
        let mount = prepared.mount.as_ref().map(|mount| Mount {
            upper: dir.join(UPPER),
            work: dir.join(WORK),
            ..mount.clone()
        });
        Ok(Prepared { mount, ..prepared.clone() })
    }
}

fn look(dir: &Path) -> Result<Option<Untouched>, FsError> {
    let upper = dir.join(UPPER);
    let Ok(meta) = fs::symlink_metadata(&upper) else { return Ok(None) };
    // Also by looking: clocks of older kernels do not tell two changes within one tick apart.
    if !tree::is_empty(&upper)? {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).named("list", dir)? {
        names.push(entry.named("list", dir)?.file_name());
    }
    // That step after step found nothing new is nothing written.
    names.retain(|name| !step::is_mark(name));
    names.sort_unstable();
    let upper = Looks {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    Ok(Some(Untouched { names, upper }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use kiln_model::{JobIndex, RunId};

    use super::*;
    use crate::{Base, Driver};

    struct Made {
        workspaces: Workspaces,
        prepared: Prepared,
        _folder: tempfile::TempDir,
    }

    fn attempt(job: u32) -> AttemptId {
        AttemptId { run: RunId(1), job: JobIndex(job), attempt: 1 }
    }

    fn made(driver: Driver) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::open(&folder.path().join("layers"), Some(driver)).unwrap();
        let root = folder.path().join("tree");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let base = Base::WorkingTree { root, hidden: Vec::new(), git: None, over: Vec::new() };
        let prepared = workspaces.prepare(attempt(0), "place", &base, &[], &[]).unwrap();
        Made { workspaces, prepared, _folder: folder }
    }

    fn is_seen(touch: impl FnOnce(PathBuf)) -> bool {
        let made = made(Driver::Overlay);
        let before = made.workspaces.untouched(attempt(0)).unwrap();
        touch(made.workspaces.attempt_dir(attempt(0)));
        !made.workspaces.is_untouched(attempt(0), &before)
    }

    #[test]
    fn whatever_a_job_leaves_is_seen() {
        assert!(!is_seen(|_| {}));
        assert!(is_seen(|dir| fs::write(dir.join("upper/file"), "").unwrap()));
        assert!(is_seen(|dir| fs::create_dir(dir.join("upper/.hidden")).unwrap()));
        assert!(is_seen(|dir| fs::write(dir.join("output"), "a=b").unwrap()));
        assert!(is_seen(|dir| {
            fs::set_permissions(dir.join("upper"), fs::Permissions::from_mode(0o711)).unwrap();
        }));
        assert!(is_seen(|dir| fs::remove_dir(dir.join("upper")).unwrap()));
    }

    #[test]
    fn a_workspace_that_is_handed_on_is_the_same_folder() {
        let made = made(Driver::Overlay);
        let workspaces = &made.workspaces;
        let before = workspaces.untouched(attempt(0)).unwrap();
        let prepared = workspaces.hand_on(attempt(0), attempt(1), &made.prepared).unwrap();
        assert_eq!(workspaces.attempts().unwrap(), [attempt(1)]);
        assert!(workspaces.is_untouched(attempt(1), &before));
        let (old, new) = (made.prepared.mount.unwrap(), prepared.mount.unwrap());
        assert_eq!((new.lowers, new.at, new.user), (old.lowers, old.at, old.user));
        assert!(new.upper.starts_with(workspaces.attempt_dir(attempt(1))) && new.upper.is_dir());
        assert!(new.work.starts_with(workspaces.attempt_dir(attempt(1))) && new.work.is_dir());
        assert_eq!(workspaces.seal(attempt(1)).unwrap(), None);
    }

    #[test]
    fn a_copy_is_never_as_good_as_new() {
        assert_eq!(made(Driver::Copy).workspaces.untouched(attempt(0)), None);
    }
}

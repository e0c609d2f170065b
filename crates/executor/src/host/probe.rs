//! Can overlays be mounted here? Found out by mounting one, not by looking at versions.

use std::io;
use std::path::Path;

use kiln_stdx::overlay::{self, Mount};
use serde::{Deserialize, Serialize};

use super::init::{Users, enter_namespace};
use super::sys::{self, Forked};

/// How overlays can be mounted on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlayKind {
    /// By root, in a mount namespace.
    Root,
    /// By anybody, in a user namespace.
    User,
}

/// Tries each kind with layers in `folder`, in a child each: a namespace cannot be left again.
/// Called in an init, which may fork.
pub(super) fn overlay_in(folder: &Path) -> Option<OverlayKind> {
    [OverlayKind::Root, OverlayKind::User].into_iter().find(|kind| in_child(folder, *kind))
}

#[allow(unsafe_code, reason = "fork has no safe interface")]
fn in_child(folder: &Path, kind: OverlayKind) -> bool {
    // SAFETY: an init has one thread.
    match unsafe { sys::fork() } {
        Ok(Forked::Child) => sys::run_and_exit(|| i32::from(try_out(folder, kind).is_err())),
        Ok(Forked::Parent(child)) => {
            let options = rustix::process::WaitOptions::empty();
            let ended = rustix::process::waitpid(Some(child), options);
            matches!(ended, Ok(Some((_, status))) if status.exit_status() == Some(0))
        }
        Err(_) => false,
    }
}

/// Mounts, reads through, writes, deletes: what jobs do. Then takes all of it away.
fn try_out(folder: &Path, kind: OverlayKind) -> io::Result<()> {
    let place = folder.join(format!(".probe-{}", std::process::id()));
    let done = enter_namespace(if kind == OverlayKind::User { Users::Same } else { Users::All })
        .map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))
        .and_then(|()| use_overlay(&place, kind));
    let _ = std::fs::remove_dir_all(&place);
    done
}

fn use_overlay(place: &Path, kind: OverlayKind) -> io::Result<()> {
    for name in ["lower/folder", "upper", "work", "at"] {
        std::fs::create_dir_all(place.join(name))?;
    }
    std::fs::write(place.join("lower/file"), "lower")?;
    std::fs::write(place.join("lower/folder/inner"), "lower")?;
    let at = place.join("at");
    let mount = Mount {
        lowers: vec![place.join("lower")],
        upper: place.join("upper"),
        work: place.join("work"),
        at: at.clone(),
        user: kind == OverlayKind::User,
    };
    overlay::mount(&mount).map_err(io::Error::other)?;
    let used = (|| {
        std::fs::write(at.join("file"), "upper")?;
        // Deletes below a folder and makes it anew: white-outs and the opaque mark are needed.
        std::fs::remove_dir_all(at.join("folder"))?;
        std::fs::create_dir(at.join("folder"))?;
        let as_meant = std::fs::read(at.join("file"))? == b"upper"
            && std::fs::read_dir(at.join("folder"))?.next().is_none()
            && std::fs::read(place.join("lower/file"))? == b"lower";
        if as_meant { Ok(()) } else { Err(io::Error::other("the overlay does not behave")) }
    })();
    overlay::unmount(&at)?;
    used
}

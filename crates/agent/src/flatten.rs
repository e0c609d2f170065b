//! Long chains of sources become one full source, in the background.
//!
//! A source that is made by difference lies over others. When many do, the next would have to hold all
//! that has changed since the full one at the bottom, while a push waits. Before it comes to that, the
//! latest tree is checked out in full beside, at the lowest priority, and the next stands on it.
//!
//! Always: what is in use stays as it is. A full source appears whole or not at all, so one that was
//! being made when the process ended is just made at the next push.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_git::Mirror;
use kiln_workspace::Workspaces;

use crate::agent::report;
use crate::past::told;

/// From so many sources over one another on; well before they are too many.
const CHAIN_LONG: usize = 12;

/// Not to be felt by jobs.
const NICE: i32 = 19;

/// Flattens one chain at a time.
#[derive(Debug, Default)]
pub(crate) struct Flattener(Arc<AtomicBool>);

impl Flattener {
    /// Begins to make the full source of a tree if its chain is long.
    pub fn look_at(&self, workspaces: &Arc<Workspaces>, mirror: &Arc<Mirror>, tree: &str) {
        if workspaces.n_sources(tree) < CHAIN_LONG || self.0.swap(true, Ordering::AcqRel) {
            return;
        }
        let (busy, workspaces) = (self.0.clone(), workspaces.clone());
        let (mirror, tree) = (mirror.clone(), tree.to_owned());
        std::thread::spawn(move || {
            // Of this thread, and of the git that it starts.
            let _ = rustix::process::setpriority_process(None, NICE);
            let fill = |into: &Path, index: &Path| {
                mirror.checkout(&tree, into, index).map_err(|error| told(&error))
            };
            if let Err(error) = workspaces.make_full_source(&tree, fill) {
                report(&format!("cannot flatten the sources of {tree}: {}", told(&error)));
            }
            busy.store(false, Ordering::Release);
        });
    }
}

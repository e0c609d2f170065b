//! When the disk is nearly full: layers, caches, images and sources go before their time, the oldest
//! first.
//!
//! Runs, logs and artifacts stay: nobody can make those again.

use std::path::Path;
use std::time::Duration;

use kiln_api::layers::{Kept, Unwanted};
use kiln_stdx::Timestamp;

use super::Pass;

/// What was just made is what people look at: it goes only from a disk fuller than that.
const YOUNG_FOR: Duration = Duration::from_secs(3600);
const FULL: u8 = 98;

/// So much goes before the disk is looked at again.
const AT_ONCE: usize = 10;

enum Thing {
    Run(kiln_model::RunId),
    Source(String),
    Cache(String),
    Image(String),
}

/// A file system, in bytes: what may still be written, and all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub free: u64,
    pub total: u64,
}

impl Space {
    pub fn at(folder: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let used = disk.f_blocks.saturating_sub(disk.f_bfree);
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        // What is reserved for root is neither used nor free for others.
        Some(Self { free: bytes(disk.f_bavail), total: bytes(used + disk.f_bavail) })
    }

    /// Percent in use, rounded up.
    pub fn used(&self) -> u8 {
        let used = self.total.saturating_sub(self.free);
        let percent = (u128::from(used) * 100).div_ceil(u128::from(self.total.max(1)));
        u8::try_from(percent).unwrap_or(100)
    }
}

impl Pass<'_> {
    pub(super) async fn disk(&mut self) {
        let data = self.collector.places.data.clone();
        let limit = self.policy.disk;
        let is_over = |most: u8| Space::at(&data).is_some_and(|space| space.used() > most);
        // What a dry pass would have freed by now is still there: it can only tell what is now.
        if !is_over(limit.above) {
            return;
        }
        // First what nobody has any use for.
        let (derived_before, damaged_before) = (Some(self.now), Some(self.now));
        self.take(Unwanted { derived_before, damaged_before, ..Unwanted::default() }).await;
        let Some(mut things) = self.oldest_first().await else { return };
        let is_young = |used_at: Timestamp| self.now.since(used_at) < YOUNG_FOR;
        let n_old = things.iter().take_while(|(used_at, _)| !is_young(*used_at)).count();
        let mut young = things.split_off(n_old);
        while is_over(limit.until) {
            if things.is_empty() && is_over(FULL) {
                things.append(&mut young);
            }
            if things.is_empty() {
                break;
            }
            let rest = things.split_off(things.len().min(AT_ONCE));
            let mut unwanted = Unwanted { derived_before: Some(self.now), ..Unwanted::default() };
            for (used_at, thing) in std::mem::replace(&mut things, rest) {
                match thing {
                    Thing::Run(run) => drop(unwanted.runs.insert(run)),
                    Thing::Source(tree) => drop(unwanted.trees.insert(tree)),
                    Thing::Cache(name) => drop(unwanted.caches.insert(name)),
                    Thing::Image(name) => drop(unwanted.images.insert(name, used_at)),
                }
            }
            self.take(unwanted).await;
            if self.dry {
                break;
            }
        }
        let space = Space::at(&data).filter(|space| space.used() > limit.above);
        if let (Some(space), false) = (space, self.dry) {
            let (data, used) = (data.display(), space.used());
            self.tally.warn(format!(
                "the disk of `{data}` is {used} % full, and no layer is left that could go: remove \
                 runs (`kiln gc --keep-runs 30d`), or give it more room"
            ));
        }
    }

    async fn oldest_first(&mut self) -> Option<Vec<(Timestamp, Thing)>> {
        let layers = self.collector.layers.clone();
        let listed = self
            .blocking("cannot list the layers", move || {
                Ok((layers.runs()?, layers.sources()?, layers.caches()?, layers.images()?))
            })
            .await;
        let (runs, sources, caches, images) = listed?;
        let mut all: Vec<(Timestamp, Thing)> = Vec::new();
        all.extend(runs.into_iter().map(|Kept { what, used_at }| (used_at, Thing::Run(what))));
        all.extend(
            sources.into_iter().map(|Kept { what, used_at }| (used_at, Thing::Source(what))),
        );
        all.extend(
            caches.into_iter().map(|Kept { what, used_at }| (used_at, Thing::Cache(what.name))),
        );
        all.extend(
            images.into_iter().map(|Kept { what, used_at }| (used_at, Thing::Image(what.name))),
        );
        all.sort_by_key(|(used_at, _)| *used_at);
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::Space;

    #[test]
    fn a_share_of_a_disk_is_rounded_up() {
        let used = |free, total| Space { free, total }.used();
        assert_eq!([used(0, 100), used(100, 100), used(15, 100)], [100, 0, 85]);
        assert_eq!([used(1499, 10_000), used(0, 0), used(5, 3)], [86, 0, 0]);
    }
}

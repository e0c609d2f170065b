//! Semaphores of projects: who holds them, and which lanes depend on them.

use std::collections::{BTreeSet, HashMap};

use kiln_model::plan::Lock;
use kiln_model::{AttemptId, ProjectId};

use super::lane::LaneId;

#[derive(Debug, Default)]
pub(super) struct Locks {
    projects: HashMap<ProjectId, HashMap<String, Semaphore>>,
}

#[derive(Debug, Default)]
struct Semaphore {
    holders: BTreeSet<AttemptId>,
    /// Lanes whose offers may take it.
    lanes: BTreeSet<LaneId>,
}

impl Locks {
    /// The name that would be given: of those with room the least used, then the first written.
    pub fn free<'a>(&self, project: ProjectId, lock: &'a Lock) -> Option<&'a str> {
        // A limit of nothing would wait for ever.
        let limit = usize::try_from(lock.limit).unwrap_or(usize::MAX).max(1);
        let used = |name: &str| self.get(project, name).map_or(0, |lock| lock.holders.len());
        let with_room = lock.any.iter().filter(|name| used(name) < limit);
        with_room.min_by_key(|name| used(name)).map(String::as_str)
    }

    pub fn acquire(&mut self, project: ProjectId, name: &str, holder: AttemptId) {
        self.entry(project, name).holders.insert(holder);
    }

    pub fn release(&mut self, project: ProjectId, name: &str, holder: AttemptId) {
        self.entry(project, name).holders.remove(&holder);
        self.forget_unused(project, name);
    }

    /// Everyone who holds one of a lock's names.
    pub fn holders(&self, project: ProjectId, lock: &Lock) -> Vec<AttemptId> {
        let names = lock.any.iter().filter_map(|name| self.get(project, name));
        let holders: BTreeSet<AttemptId> = names.flat_map(|lock| &lock.holders).copied().collect();
        holders.into_iter().collect()
    }

    pub fn add_lane(&mut self, project: ProjectId, lock: &Lock, lane: LaneId) {
        for name in &lock.any {
            self.entry(project, name).lanes.insert(lane);
        }
    }

    pub fn remove_lane(&mut self, project: ProjectId, lock: &Lock, lane: LaneId) {
        for name in &lock.any {
            self.entry(project, name).lanes.remove(&lane);
            self.forget_unused(project, name);
        }
    }

    /// Lanes that may be able to move, or not any more, when a name changes hands.
    pub fn lanes(&self, project: ProjectId, name: &str) -> Vec<LaneId> {
        self.get(project, name).map(|lock| lock.lanes.iter().copied().collect()).unwrap_or_default()
    }

    fn get(&self, project: ProjectId, name: &str) -> Option<&Semaphore> {
        self.projects.get(&project)?.get(name)
    }

    fn entry(&mut self, project: ProjectId, name: &str) -> &mut Semaphore {
        self.projects.entry(project).or_default().entry(name.to_owned()).or_default()
    }

    fn forget_unused(&mut self, project: ProjectId, name: &str) {
        let Some(locks) = self.projects.get_mut(&project) else { return };
        if locks.get(name).is_some_and(|lock| lock.holders.is_empty() && lock.lanes.is_empty()) {
            locks.remove(name);
        }
        if locks.is_empty() {
            self.projects.remove(&project);
        }
    }
}

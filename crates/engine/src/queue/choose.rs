//! The queue itself: offers in, the right one out.

use std::collections::{BTreeMap, HashMap};

use kiln_model::{AttemptId, ProjectId};

use super::label::{Labels, Share};
use super::lane::{Lane, LaneId, LaneKey, Place};
use super::lock::Locks;
use super::offer::{Blocked, Offer};

/// Counting places any further tells nobody anything.
const POSITION_MAX: usize = 1_000;

/// What is offered and what is taken, over all projects.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: HashMap<LaneId, Lane>,
    lane_ids: HashMap<LaneKey, LaneId>,
    next_lane: u64,
    next_position: u64,
    n_takes: u64,
    offered: HashMap<AttemptId, (LaneId, Place)>,
    taken: BTreeMap<AttemptId, Taken>,
    labels: Labels,
    locks: Locks,
}

/// What must be undone when an attempt is not held any more.
#[derive(Debug)]
struct Taken {
    project: ProjectId,
    lock: Option<String>,
    /// Where it stood; absent when it was taken before this queue began.
    stood: Option<Stood>,
}

#[derive(Debug)]
struct Stood {
    place: Place,
    served_before: u64,
    served: u64,
}

impl Queue {
    /// Puts an attempt at the end of its line. Offered already, it keeps its place; taken, it is
    /// released and gets its place back.
    pub fn offer(&mut self, project: ProjectId, offer: Offer) {
        let stood = self.taken.get(&offer.attempt).and_then(|taken| taken.stood.as_ref());
        let known = stood.map(|stood| stood.place.1);
        let known = known.or(self.offered.get(&offer.attempt).map(|(_, place)| place.1));
        self.release(offer.attempt);
        self.withdraw(offer.attempt);
        let position = known.unwrap_or_else(|| {
            self.next_position += 1;
            self.next_position
        });
        self.insert(project, offer, position);
    }

    pub fn withdraw(&mut self, attempt: AttemptId) {
        if let Some((lane, place)) = self.offered.remove(&attempt) {
            self.change(lane, |lane| lane.offers.remove(&place));
        }
    }

    /// Takes the best offer for an agent with these labels; takes its lock too, and names it.
    pub fn take(&mut self, labels: &[String]) -> Option<(Offer, Option<String>)> {
        let id = self.labels.next_for(labels)?;
        let lane = self.lanes.get(&id)?;
        let (project, place) = (lane.key.project, lane.head()?);
        let lock = lane.lock.as_ref().and_then(|lock| self.locks.free(project, lock));
        let lock = lock.map(str::to_owned);
        let offer = self.change(id, |lane| lane.offers.remove(&place))?;
        self.offered.remove(&offer.attempt);
        if let Some(name) = &lock {
            self.locks.acquire(project, name, offer.attempt);
            self.look_again(project, name);
        }
        let share = self.labels.share(project);
        self.n_takes += 1;
        let served = self.n_takes;
        self.labels.set_share(project, Share { n_running: share.n_running + 1, served });
        let stood = Some(Stood { place, served_before: share.served, served });
        self.taken.insert(offer.attempt, Taken { project, lock: lock.clone(), stood });
        Some((offer, lock))
    }

    /// Puts back what was taken and not leased after all: where it stood, its lock free again.
    pub fn put_back(&mut self, project: ProjectId, offer: Offer) {
        let stood = self.taken.get_mut(&offer.attempt).and_then(|taken| taken.stood.take());
        self.release(offer.attempt);
        let Some(stood) = stood else { return self.offer(project, offer) };
        let share = self.labels.share(project);
        if share.served == stood.served {
            self.labels.set_share(project, Share { served: stood.served_before, ..share });
        }
        self.withdraw(offer.attempt);
        self.insert(project, offer, stood.place.1);
    }

    /// Records, when a server starts, that a live attempt holds a lock.
    pub fn hold(&mut self, project: ProjectId, attempt: AttemptId, lock: String) {
        self.resume(project, attempt, Some(lock));
    }

    /// Records, when a server starts, that an agent has an attempt, with its lock if it has one.
    pub fn resume(&mut self, project: ProjectId, attempt: AttemptId, lock: Option<String>) {
        self.withdraw(attempt);
        self.release(attempt);
        if let Some(name) = &lock {
            self.locks.acquire(project, name, attempt);
            self.look_again(project, name);
        }
        let share = self.labels.share(project);
        self.labels.set_share(project, Share { n_running: share.n_running + 1, ..share });
        self.taken.insert(attempt, Taken { project, lock, stood: None });
    }

    /// The attempt is over: frees its lock. True when somebody may now be able to go.
    pub fn release(&mut self, attempt: AttemptId) -> bool {
        let Some(taken) = self.taken.remove(&attempt) else { return false };
        let share = self.labels.share(taken.project);
        let n_running = share.n_running.saturating_sub(1);
        self.labels.set_share(taken.project, Share { n_running, ..share });
        let Some(name) = taken.lock else { return false };
        self.locks.release(taken.project, &name, attempt);
        self.look_again(taken.project, &name)
    }

    /// Why an offer has not been taken; `None` when the attempt is not offered.
    pub fn blocked(&self, attempt: AttemptId) -> Option<Blocked> {
        let (lane, place) = self.offered.get(&attempt)?;
        let lane = self.lanes.get(lane)?;
        match &lane.lock {
            Some(lock) if !lane.can_move => Some(Blocked::Lock {
                lock: lock.any.join(" or "),
                held_by: self.locks.holders(lane.key.project, lock),
            }),
            _ => {
                let before = lane.offers.range(..place).take(POSITION_MAX - 1).count();
                Some(Blocked::NoAgent { position: before + 1 })
            }
        }
    }

    /// Whose attempt this is, offered or taken.
    pub fn project_of(&self, attempt: AttemptId) -> Option<ProjectId> {
        let offered = self.offered.get(&attempt).and_then(|(lane, _)| self.lanes.get(lane));
        let offered = offered.map(|lane| lane.key.project);
        offered.or_else(|| self.taken.get(&attempt).map(|taken| taken.project))
    }

    /// How many attempts are offered.
    pub fn len(&self) -> usize {
        self.offered.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&mut self, project: ProjectId, offer: Offer, position: u64) {
        let place = (std::cmp::Reverse(offer.priority), position);
        let lane = self.lane_for(project, &offer);
        self.offered.insert(offer.attempt, (lane, place));
        self.change(lane, |lane| lane.offers.insert(place, offer));
    }

    /// The lane of such offers; made when it is the first.
    fn lane_for(&mut self, project: ProjectId, offer: &Offer) -> LaneId {
        let key = |set| LaneKey {
            project,
            set,
            lock: offer.lock.as_ref().map(|lock| (lock.any.clone(), lock.limit)),
        };
        let known = self.labels.find(&offer.labels).and_then(|set| self.lane_ids.get(&key(set)));
        if let Some(known) = known {
            return *known;
        }
        let key = key(self.labels.enter(&offer.labels));
        let id = LaneId(self.next_lane);
        self.next_lane += 1;
        let lock = offer.lock.clone();
        let can_move = lock.as_ref().is_none_or(|lock| self.locks.free(project, lock).is_some());
        if let Some(lock) = &lock {
            self.locks.add_lane(project, lock, id);
        }
        self.lane_ids.insert(key.clone(), id);
        self.lanes.insert(id, Lane { key, lock, offers: BTreeMap::new(), can_move });
        id
    }

    /// Changes a lane and keeps what is known of its head true. An empty lane is forgotten.
    fn change<T>(&mut self, id: LaneId, change: impl FnOnce(&mut Lane) -> Option<T>) -> Option<T> {
        let lane = self.lanes.get_mut(&id)?;
        let (project, set, before) = (lane.key.project, lane.key.set, lane.head());
        let changed = change(lane);
        let (after, empty) = (lane.head(), lane.offers.is_empty());
        if before != after {
            if let Some(head) = before {
                self.labels.remove_head(set, project, (head, id));
            }
            if let Some(head) = after {
                self.labels.add_head(set, project, (head, id));
            }
        }
        if empty && let Some(lane) = self.lanes.remove(&id) {
            if let Some(lock) = &lane.lock {
                self.locks.remove_lane(project, lock, id);
            }
            self.lane_ids.remove(&lane.key);
            self.labels.leave(set);
        }
        changed
    }

    /// A lock's name changed hands: which lanes can move now? True when one can that could not.
    fn look_again(&mut self, project: ProjectId, name: &str) -> bool {
        let mut freed = false;
        for id in self.locks.lanes(project, name) {
            let Some(lane) = self.lanes.get(&id) else { continue };
            let room = |lock| self.locks.free(project, lock).is_some();
            let can_move = lane.lock.as_ref().is_none_or(room);
            if can_move != lane.can_move {
                freed |= can_move;
                self.change(id, |lane| {
                    lane.can_move = can_move;
                    Some(())
                });
            }
        }
        freed
    }
}

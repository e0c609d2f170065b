//! A line of offers that differ in nothing but their place.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use kiln_model::ProjectId;
use kiln_model::plan::Lock;

use super::label::SetId;
use super::offer::Offer;

/// Where an offer stands: highest priority first, then in the order of coming.
pub(super) type Place = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(pub u64);

/// What the offers of a lane have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub project: ProjectId,
    pub set: SetId,
    /// Names and limit of the lock.
    pub lock: Option<(Vec<String>, u32)>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub key: LaneKey,
    pub lock: Option<Lock>,
    pub offers: BTreeMap<Place, Offer>,
    /// It has no lock, or its lock has room.
    pub can_move: bool,
}

impl Lane {
    /// The place of its first offer, when that may be taken.
    pub fn head(&self) -> Option<Place> {
        self.offers.keys().next().copied().filter(|_| self.can_move)
    }
}

//! Sets of labels: which of them an agent can serve, and whose turn it is in each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use kiln_model::ProjectId;

use super::lane::{LaneId, Place};

/// Never used twice, so that what an agent is known to match cannot come to mean another set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SetId(u64);

/// Agents that are remembered; past it, all are forgotten and matched anew.
const AGENTS_MAX: usize = 4_096;

/// What a project has had of the agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Share {
    pub n_running: u32,
    /// When it was served last, counted in takes.
    pub served: u64,
}

/// A project's claim in one set: the lowest goes first.
type Rank = (Reverse<i32>, Share, u64, ProjectId);

/// Offers with the same labels.
#[derive(Debug, Default)]
pub(super) struct LabelSet {
    labels: Vec<String>,
    n_lanes: usize,
    /// The heads of each project's lanes that can move.
    heads: BTreeMap<ProjectId, BTreeSet<(Place, LaneId)>>,
    /// Kept only once an agent has asked that has these labels.
    turns: Option<BTreeSet<Rank>>,
}

#[derive(Debug, Default)]
pub(super) struct Labels {
    sets: BTreeMap<SetId, LabelSet>,
    ids: HashMap<Vec<String>, SetId>,
    next: SetId,
    agents: HashMap<Vec<String>, Agent>,
    shares: HashMap<ProjectId, Share>,
    /// Where a project has a turn.
    turns_of: HashMap<ProjectId, BTreeSet<SetId>>,
}

/// Agents with the same labels, and the sets that they can serve.
#[derive(Debug, Default)]
struct Agent {
    /// Sets below this one have been looked at.
    looked_until: SetId,
    sets: Vec<SetId>,
}

impl Labels {
    /// The set of these labels; one more lane stands in it.
    pub fn enter(&mut self, labels: &[String]) -> SetId {
        let labels = normal(labels);
        let id = *self.ids.entry(labels.clone()).or_insert_with(|| {
            let id = self.next;
            self.next.0 += 1;
            self.sets.insert(id, LabelSet { labels, ..LabelSet::default() });
            id
        });
        if let Some(set) = self.sets.get_mut(&id) {
            set.n_lanes += 1;
        }
        id
    }

    /// The set of these labels, if any lane stands in it.
    pub fn find(&self, labels: &[String]) -> Option<SetId> {
        self.ids.get(&normal(labels)).copied()
    }

    /// A lane is gone; a set without lanes is forgotten.
    pub fn leave(&mut self, id: SetId) {
        let Some(set) = self.sets.get_mut(&id) else { return };
        set.n_lanes -= 1;
        if set.n_lanes == 0 {
            self.ids.remove(&set.labels);
            self.sets.remove(&id);
        }
    }

    /// A lane can move and has this head.
    pub fn add_head(&mut self, id: SetId, project: ProjectId, head: (Place, LaneId)) {
        self.change_heads(id, project, |heads| heads.insert(head));
    }

    pub fn remove_head(&mut self, id: SetId, project: ProjectId, head: (Place, LaneId)) {
        self.change_heads(id, project, |heads| heads.remove(&head));
    }

    /// The lane whose head an agent with these labels gets.
    pub fn next_for(&mut self, labels: &[String]) -> Option<LaneId> {
        let sets = self.served_by(normal(labels));
        for id in &sets {
            self.wake(*id);
        }
        let first = |id: &SetId| Some((*self.sets.get(id)?.turns.as_ref()?.first()?, *id));
        let ((_, _, _, project), id) = sets.iter().filter_map(first).min()?;
        self.sets.get(&id)?.heads.get(&project)?.first().map(|(_, lane)| *lane)
    }

    pub fn share(&self, project: ProjectId) -> Share {
        self.shares.get(&project).copied().unwrap_or_default()
    }

    /// Moves a project's claims in every set where it has one.
    pub fn set_share(&mut self, project: ProjectId, share: Share) {
        let sets: Vec<SetId> = self
            .turns_of
            .get(&project)
            .map(|ids| ids.iter().copied().collect())
            .unwrap_or_default();
        for id in &sets {
            self.drop_turn(*id, project);
        }
        self.shares.insert(project, share);
        for id in &sets {
            self.make_turn(*id, project);
        }
    }

    fn change_heads(
        &mut self,
        id: SetId,
        project: ProjectId,
        change: impl FnOnce(&mut BTreeSet<(Place, LaneId)>) -> bool,
    ) {
        self.drop_turn(id, project);
        if let Some(set) = self.sets.get_mut(&id) {
            let heads = set.heads.entry(project).or_default();
            change(heads);
            if heads.is_empty() {
                set.heads.remove(&project);
            }
        }
        self.make_turn(id, project);
    }

    /// A project's claim in a set, while it has a head there.
    fn rank(&self, id: SetId, project: ProjectId) -> Option<Rank> {
        let ((priority, position), _) = self.sets.get(&id)?.heads.get(&project)?.first()?;
        Some((*priority, self.share(project), *position, project))
    }

    fn drop_turn(&mut self, id: SetId, project: ProjectId) {
        let Some(rank) = self.rank(id, project) else { return };
        if let Some(turns) = self.sets.get_mut(&id).and_then(|set| set.turns.as_mut()) {
            turns.remove(&rank);
            if let Some(sets) = self.turns_of.get_mut(&project) {
                sets.remove(&id);
            }
        }
    }

    fn make_turn(&mut self, id: SetId, project: ProjectId) {
        let Some(rank) = self.rank(id, project) else { return };
        if let Some(turns) = self.sets.get_mut(&id).and_then(|set| set.turns.as_mut()) {
            turns.insert(rank);
            self.turns_of.entry(project).or_default().insert(id);
        }
    }

    /// Begins to keep turns in a set that an agent can serve.
    fn wake(&mut self, id: SetId) {
        let Some(set) = self.sets.get_mut(&id).filter(|set| set.turns.is_none()) else { return };
        set.turns = Some(BTreeSet::new());
        let projects: Vec<ProjectId> = set.heads.keys().copied().collect();
        for project in projects {
            self.make_turn(id, project);
        }
    }

    /// The sets that an agent can serve. Only sets that are new since it asked last are compared.
    fn served_by(&mut self, labels: Vec<String>) -> Vec<SetId> {
        if self.agents.len() >= AGENTS_MAX && !self.agents.contains_key(&labels) {
            self.agents.clear();
        }
        let sets = &self.sets;
        let agent = self.agents.entry(labels.clone()).or_default();
        agent.sets.retain(|id| sets.contains_key(id));
        let has = |set: &LabelSet| set.labels.iter().all(|l| labels.binary_search(l).is_ok());
        let new = sets.range(agent.looked_until..).filter(|(_, set)| has(set)).map(|(id, _)| *id);
        agent.sets.extend(new);
        agent.looked_until = self.next;
        agent.sets.clone()
    }
}

/// Sorted, each once.
fn normal(labels: &[String]) -> Vec<String> {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    labels.dedup();
    labels
}

//! The usual scene: a bare repository, a server that watches it, and a person who pushes.

use serde_json::Value;

use crate::repository::{Bare, WorkTree};
use crate::server::Server;
use crate::world::World;

/// A watched project called `site`.
pub struct Site {
    // Dropped first: the server ends before its data folder goes.
    pub server: Server,
    pub tree: WorkTree,
    pub bare: Bare,
    pub world: World,
}

impl Site {
    /// A project whose next push has this manifest.
    pub fn with(manifest: &str) -> Self {
        let world = World::new();
        let bare = world.bare("site.git");
        let tree = world.clone_of(&bare, "site");
        tree.write(".kiln.yml", manifest);
        let server = world.serve();
        world.watch("site", &bare);
        Self { server, tree, bare, world }
    }

    /// Commits what there is and pushes it to `main`.
    pub fn push(&self) -> String {
        let commit = self.tree.commit("change");
        self.tree.push(["HEAD:refs/heads/main"]);
        commit
    }

    /// Pushes and waits for run `number` to be over.
    pub fn run(&self, number: i64) -> Value {
        self.push();
        self.server.over("site", number)
    }

    /// A run's JSON as it is now.
    pub fn now(&self, number: i64) -> Value {
        self.server.json(&format!("/projects/site/runs/{number}"))
    }

    pub fn log(&self, number: i64, job: &str) -> String {
        String::from_utf8_lossy(&self.server.log("site", number, job)).into_owned()
    }

    /// Kills the server, if it still runs, and starts it again on the same data.
    pub fn again(&mut self) {
        self.server.end();
        self.server = self.world.serve();
    }

    /// `kiln ARGS…` as somebody who administers this server.
    pub fn kiln(&self, args: &[&str]) -> crate::Ran {
        self.world.kiln(self.world.path(), args)
    }
}

/// One job's row of a run.
#[track_caller]
pub fn job<'r>(run: &'r Value, name: &str) -> &'r Value {
    let jobs = run["jobs"].as_array().unwrap_or_else(|| panic!("a run has jobs: {run:#}"));
    let found = jobs.iter().find(|job| job["job"] == name);
    found.unwrap_or_else(|| panic!("no job `{name}`: {run:#}"))
}

/// `name=state` of every job, in plan order.
pub fn states(run: &Value) -> Vec<String> {
    let jobs = run["jobs"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    jobs.iter().map(|job| format!("{}={}", text(&job["job"]), text(&job["state"]))).collect()
}

//! The page of a run with a thousand jobs.

use anyhow::{Result, ensure};
use kiln_it::{World, http};

use super::figure::{Figure, Goal, Limit, time};

const N_JOBS: usize = 1_000;

pub fn thousand_jobs() -> Result<Vec<Figure>> {
    let world = World::new();
    let bare = world.bare("wide.git");
    let clone = world.clone_of(&bare, "wide");
    let jobs: String = (0..N_JOBS).map(|n| format!("  j{n}: {{ steps: ['true'] }}\n")).collect();
    clone.write(".kiln.yml", format!("jobs:\n{jobs}"));
    clone.commit("pipeline");
    let server = world.serve();
    world.watch("wide", &bare);
    clone.push(["main"]);
    server.over("wide", 1);
    let samples = time(3, 30, || {
        let page = http::get(server.address, "/p/wide/1")?;
        ensure!(page.status == 200, "the page answers {}", page.status);
        ensure!(page.text().contains("j999"), "the page lacks a job");
        Ok(())
    })?;
    let limit = time(3, 30, || {
        let answer = http::get(server.address, "/api/v1/projects")?;
        ensure!(answer.status == 200, "the projects answer {}", answer.status);
        Ok(())
    })?;
    Ok(vec![Figure {
        name: "page-1000-jobs",
        unit: "ms",
        samples,
        limit: Limit::Measured { what: "GET of the projects", samples: limit },
        goal: Goal::AtMost(20.0),
    }])
}

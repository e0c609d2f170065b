//! `/p/{project}/{number}`: one run: what it is, its jobs as a graph and over time, its artifacts.

use std::collections::{BTreeMap, HashMap};

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::{ArtifactRow, JobRow, Run, RunDetail};
use kiln_model::{JobState, Reason, RunNumber};
use kiln_stdx::Timestamp;
use kiln_store::RunRow;

use super::error::PageError;
use super::graph;
use super::page::{self, Crumb, Frame, link};
use super::run_list;
use super::show;
use super::timeline::{self, Axis, Bar};
use crate::state::App;

/// A graph with more nodes helps nobody; then one node stands for all jobs of a group.
const GRAPH_NODES_MAX: usize = 150;
/// Longest text in a node. It is drawn, so the browser does not cut it for us.
const NODE_TEXT_MAX: usize = 20;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage<'a> {
    frame: Frame,
    detail: &'a RunDetail,
    run: &'a Run,
    /// Why there is no plan, as the terminal shows it.
    no_plan: Option<&'a str>,
    counts: Vec<(&'static str, usize)>,
    graph: Option<Graph>,
    axis: Axis,
    bars: Vec<Bar>,
    artifacts: &'a [ArtifactRow],
}

/// A graph with what its nodes show.
struct Graph {
    drawing: graph::Layout,
    nodes: Vec<Node>,
    /// Its nodes are groups of jobs.
    grouped: bool,
}

struct Node {
    name: String,
    label: String,
    state: &'static str,
    /// Second line: time or counts.
    note: show::Html,
    link: String,
    /// Name of the group when the node stands for several jobs.
    group: Option<String>,
}

/// `GET /p/{project}/{number}`.
pub async fn show(
    State(app): State<App>,
    Path((project, number)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let row = find(&app, &project, &number).await?;
    let detail = crate::view::run(&app.runs, row.id).await?;
    let artifacts: Vec<ArtifactRow> = (app.runs.store().artifacts(row.id).await?.into_iter())
        .map(|kept| ArtifactRow {
            job: kept.job.to_string(),
            attempt: kept.attempt.attempt,
            artifact: kept.artifact,
        })
        .collect();
    let no_plan = match &row.reason {
        Some(Reason::NoPlan { message }) => Some(message.as_str()),
        _ => None,
    };
    Ok(page::send(StatusCode::OK, &build(&detail, no_plan, &artifacts, app.clock.now())))
}

/// The run of that number.
pub async fn find(app: &App, project: &str, number: &str) -> Result<RunRow, PageError> {
    let project = run_list::find(app, project).await?;
    let missing = || PageError::Missing(format!("{} has no run #{number}.", project.name));
    let at = number.parse().map(RunNumber).map_err(|_| missing())?;
    match app.runs.store().run_by_number(project.id, at).await {
        Err(kiln_store::StoreError::NotFound(_)) => Err(missing()),
        other => Ok(other?),
    }
}

fn build<'a>(
    detail: &'a RunDetail,
    no_plan: Option<&'a str>,
    artifacts: &'a [ArtifactRow],
    now: Timestamp,
) -> RunPage<'a> {
    let run = &detail.run;
    let bars = timeline::bars(detail);
    RunPage {
        frame: frame(run, now),
        detail,
        run,
        no_plan,
        counts: counts(&detail.jobs),
        graph: draw(detail, now),
        axis: Axis::of(detail, &bars, now),
        bars,
        artifacts,
    }
}

/// The frame of a run's page; a job's page goes on from it.
pub fn frame(run: &Run, now: Timestamp) -> Frame {
    let mut frame = Frame::new(format!("#{} {} · {}", run.number, run.title, run.project), now);
    frame.state = Some(run.state.as_str());
    frame.trail = vec![
        Crumb { text: run.project.clone(), link: link::project(&run.project) },
        Crumb { text: format!("#{}", run.number), link: link::run(&run.project, run.number) },
    ];
    let twin = link::api_run(&run.project, run.number);
    frame.events = Some(format!("{twin}/live"));
    frame.twin = Some(twin);
    frame.live = !run.state.is_over();
    frame
}

impl RunPage<'_> {
    fn rows(&self) -> impl Iterator<Item = (&JobRow, &Bar)> {
        self.detail.jobs.iter().zip(&self.bars)
    }

    fn total(&self) -> String {
        let ms = u64::try_from(self.axis.to_ms - self.axis.from_ms).unwrap_or(0);
        show::length(std::time::Duration::from_millis(ms))
    }

    /// Some job can be done again that did not succeed.
    fn has_failed(&self) -> bool {
        use JobState as S;
        let bad =
            |job: &JobRow| matches!(job.state, S::Failed | S::Warning | S::Lost | S::Cancelled);
        self.run.state.is_over() && self.detail.jobs.iter().any(bad)
    }

    fn inputs_json(&self) -> String {
        serde_json::to_string(&self.run.inputs).unwrap_or_default()
    }
}

/// How many jobs are in each state, in the order of [`JobState::ALL`].
fn counts(jobs: &[JobRow]) -> Vec<(&'static str, usize)> {
    let count = |state: &JobState| jobs.iter().filter(|job| job.state == *state).count();
    JobState::ALL.iter().map(|state| (state.as_str(), count(state))).filter(|c| c.1 > 0).collect()
}

/// The graph: of jobs, or of groups when there are many. Nothing when even those are too many, or
/// when there is nothing to see.
fn draw(detail: &RunDetail, now: Timestamp) -> Option<Graph> {
    let jobs = &detail.jobs;
    if jobs.len() < 2 {
        return None;
    }
    if jobs.len() <= GRAPH_NODES_MAX {
        let nodes = jobs.iter().map(|job| job_node(&detail.run, job, now)).collect();
        let names = jobs.iter().map(|job| job.job.as_str());
        let drawing = graph::layout(&positions(names, jobs, |job| &job.job));
        return Some(Graph { drawing, nodes, grouped: false });
    }
    let mut groups: Vec<(&str, Vec<&JobRow>)> = Vec::new();
    let mut at = HashMap::new();
    for job in jobs {
        let place = *at.entry(job.group.as_str()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((&job.group, Vec::new()));
        }
        groups[place].1.push(job);
    }
    if groups.len() > GRAPH_NODES_MAX || groups.len() < 2 {
        return None;
    }
    let nodes =
        groups.iter().map(|(name, jobs)| group_node(&detail.run, name, jobs, now)).collect();
    let names = groups.iter().map(|group| group.0);
    let drawing = graph::layout(&positions(names, jobs, |job| &job.group));
    Some(Graph { drawing, nodes, grouped: true })
}

/// For each node the positions of the nodes that it needs.
fn positions<'a>(
    names: impl Iterator<Item = &'a str>,
    jobs: &'a [JobRow],
    node_of: impl Fn(&'a JobRow) -> &'a str,
) -> Vec<Vec<usize>> {
    let at: HashMap<&str, usize> = names.enumerate().map(|(at, name)| (name, at)).collect();
    let of_job: HashMap<&str, usize> =
        jobs.iter().map(|job| (job.job.as_str(), at[node_of(job)])).collect();
    let mut needs = vec![Vec::new(); at.len()];
    for job in jobs {
        let own = &mut needs[of_job[job.job.as_str()]];
        own.extend(job.needs.iter().filter_map(|need| of_job.get(need.as_str())));
    }
    needs
}

fn job_node(run: &Run, job: &JobRow, now: Timestamp) -> Node {
    let note = match (timeline::began(job), job.state.is_over()) {
        (None, _) => show::Html(job.state.to_string()),
        (from, true) => show::span(&from, &job.finished_at.or(from), &now),
        (from, false) => show::span(&from, &None, &now),
    };
    Node {
        name: job.job.clone(),
        label: cut(&job.job),
        state: job.state.as_str(),
        // Spans are for HTML; in a drawing the same attributes stand on a `tspan`.
        note: show::Html(note.0.replace("<span", "<tspan").replace("</span", "</tspan")),
        link: link::job(&run.project, run.number, &job.job),
        group: None,
    }
}

fn group_node(run: &Run, name: &str, jobs: &[&JobRow], now: Timestamp) -> Node {
    if let [job] = jobs {
        return job_node(run, job, now);
    }
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for job in jobs {
        let urgency = URGENCY.iter().position(|state| *state == job.state).unwrap_or(0);
        *counts.entry(urgency).or_default() += 1;
    }
    let words: Vec<String> =
        counts.iter().take(2).map(|(at, n)| format!("{n} {}", URGENCY[*at])).collect();
    let worst = counts.keys().next().map_or(JobState::Queued, |at| URGENCY[*at]);
    Node {
        name: format!("{name}: {}", show::plural(jobs.len(), "job")),
        label: format!("{} ×{}", cut(name), jobs.len()),
        state: worst.as_str(),
        note: show::Html(words.join(", ")),
        link: "#jobs".to_owned(),
        group: Some(name.to_owned()),
    }
}

/// What a group shows when its jobs differ: the first of these that one of them is in.
const URGENCY: [JobState; 9] = [
    JobState::Failed,
    JobState::Lost,
    JobState::Waiting,
    JobState::Running,
    JobState::Queued,
    JobState::Warning,
    JobState::Cancelled,
    JobState::Success,
    JobState::Skipped,
];

/// The end of a name tells matrix instances apart, so the middle is left out.
fn cut(name: &str) -> String {
    let n_chars = name.chars().count();
    if n_chars <= NODE_TEXT_MAX {
        return name.to_owned();
    }
    let half = NODE_TEXT_MAX / 2;
    let head: String = name.chars().take(half).collect();
    let tail: String = name.chars().skip(n_chars - (half - 1)).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::sample;

    #[test]
    fn a_run_shows_its_jobs_as_links_and_its_times() {
        let detail = sample::diamond();
        let html = build(&detail, None, &sample::artifacts(), sample::NOW).render().unwrap();
        for job in &detail.jobs {
            let link = link::job("glaze", 7, &job.job);
            assert!(html.matches(&format!("href=\"{link}\"")).count() >= 2, "{link}");
        }
        assert!(html.contains("dist/a%20%3Cb%3E.tar.gz"), "artifacts are linked by encoded path");
        assert!(!html.contains("<b>.tar"));
        assert!(!html.contains("style="), "the policy forbids style attributes");
        assert!(!html.contains("<script>"), "the policy forbids inline scripts");
    }

    #[test]
    fn a_refused_plan_is_shown_as_the_terminal_shows_it() {
        let mut detail = sample::diamond();
        detail.jobs.clear();
        let message = "error: job `test` needs `biuld`\n  --> .kiln.yml:4:12\n   | <x>";
        let html = build(&detail, Some(message), &[], sample::NOW).render().unwrap();
        assert!(html.contains("  --&#62; .kiln.yml:4:12\n   | &#60;x&#62;"), "{html}");
    }

    #[test]
    fn a_thousand_jobs_are_drawn_as_groups() {
        let detail = sample::wide(1_000);
        let graph = draw(&detail, sample::NOW).unwrap();
        assert!(graph.grouped);
        assert_eq!(graph.nodes.len(), 10);
        let node = &graph.nodes[0];
        assert_eq!(node.state, "failed");
        assert_eq!(node.label, "build ×100");
        let html = build(&detail, None, &[], sample::NOW).render().unwrap();
        assert_eq!(html.matches("class=\"job ").count(), 1_000);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(cut("integration-tests:postgres-16,linux-arm64"), "integratio…nux-arm64");
        assert_eq!(cut("short"), "short");
    }
}

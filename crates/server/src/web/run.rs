//! `/p/{project}/{number}`: one run: what it is, its jobs as a graph and over time, its artifacts.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use kiln_api::user::{ArtifactRow, JobRow, Run, RunDetail};
use kiln_model::{JobState, Reason, RunNumber};
use kiln_stdx::Timestamp;
use kiln_store::RunRow;

use super::artifact::Shelf;
use super::error::PageError;
use super::extract::Segments;
use super::graph;
use super::page::{self, Crumb, Frame, link};
use super::run_list;
use super::show;
use super::timeline::{self, Axis, Bar};
use crate::state::App;

/// A graph with more nodes helps nobody; then one node stands for all jobs of a group.
const GRAPH_NODES_MAX: usize = 150;
/// A graph of jobs that is higher does not fit a screen: the far ends of its lines are out of
/// sight. Then groups are drawn too, when that makes it lower.
const GRAPH_HEIGHT_MAX: i32 = 960;
/// Warnings that are open from the start, and jobs named beside one.
const WARNINGS_OPEN: usize = 5;
const WARNED_JOBS_MAX: usize = 4;
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
    warnings: Vec<Warning<'a>>,
    shelf: Option<Shelf>,
}

/// What a person should know, once for all jobs that say it.
struct Warning<'a> {
    text: &'a str,
    jobs: Vec<&'a JobRow>,
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
    Segments((project, number)): Segments<(String, String)>,
) -> Result<Response, PageError> {
    let row = find(&app, &project, &number).await?;
    let detail = crate::view::run(&app.runs, row.id).await?;
    let artifacts: Vec<ArtifactRow> = (app.runs.store().artifacts(row.id).await?.into_iter())
        .map(|kept| ArtifactRow {
            job: kept.job.to_string(),
            attempt: kept.attempt.attempt,
            artifact: kept.artifact,
            collected_at: kept.collected_at,
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
        Err(kiln_store::StoreError::NotFound(_)) => {
            if app.runs.store().has_had_run(project.id, at).await? {
                let gone = "was collected: it is older than what is kept";
                return Err(PageError::Missing(format!("{}#{at} {gone}.", project.name)));
            }
            Err(missing())
        }
        other => Ok(other?),
    }
}

fn build<'a>(
    detail: &'a RunDetail,
    no_plan: Option<&'a str>,
    artifacts: &[ArtifactRow],
    now: Timestamp,
) -> RunPage<'a> {
    let run = &detail.run;
    let needs = timeline::needs(&detail.jobs);
    let bars = timeline::bars(detail, &needs);
    RunPage {
        frame: frame(run, now),
        detail,
        run,
        no_plan,
        counts: counts(&detail.jobs),
        graph: draw(detail, &needs, now),
        axis: Axis::of(detail, &bars, now),
        bars,
        warnings: warnings(&detail.jobs),
        shelf: Shelf::of_run(run, artifacts),
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

    /// How many jobs took earlier results, and the time that these had taken.
    fn saved(&self) -> Option<String> {
        let reused = || self.detail.jobs.iter().filter_map(|job| job.reused_from.as_ref());
        let took = std::time::Duration::from_millis(reused().map(|from| from.took_ms).sum());
        let n = reused().count();
        (n > 0).then(|| format!("{n} reused, saved {}", show::length(took)))
    }

    fn inputs_json(&self) -> String {
        serde_json::to_string(&self.run.inputs).unwrap_or_default()
    }
}

/// Each sentence with the jobs that say it, in the order of the plan.
fn warnings(jobs: &[JobRow]) -> Vec<Warning<'_>> {
    let mut all: Vec<Warning<'_>> = Vec::new();
    let mut at = HashMap::new();
    for job in jobs {
        for text in &job.warnings {
            let place = *at.entry(text.as_str()).or_insert(all.len());
            if place == all.len() {
                all.push(Warning { text, jobs: Vec::new() });
            }
            all[place].jobs.push(job);
        }
    }
    all
}

/// How many jobs are in each state, in the order of [`JobState::ALL`].
fn counts(jobs: &[JobRow]) -> Vec<(&'static str, usize)> {
    let count = |state: &JobState| jobs.iter().filter(|job| job.state == *state).count();
    JobState::ALL.iter().map(|state| (state.as_str(), count(state))).filter(|c| c.1 > 0).collect()
}

/// The graph: of jobs, or of groups when there are many. Nothing when even those are too many, or
/// when there is nothing to see.
fn draw(detail: &RunDetail, needs: &[Rc<[usize]>], now: Timestamp) -> Option<Graph> {
    let jobs = &detail.jobs;
    if jobs.len() < 2 {
        return None;
    }
    let groups = groups(jobs);
    if jobs.len() <= GRAPH_NODES_MAX {
        let nodes = jobs.iter().map(|job| job_node(&detail.run, job, now)).collect();
        let needs: Vec<Vec<usize>> = needs.iter().map(|needs| needs.to_vec()).collect();
        let drawing = graph::layout(&needs);
        let groups_help = (2..jobs.len()).contains(&groups.len());
        if drawing.height <= GRAPH_HEIGHT_MAX || !groups_help {
            return Some(Graph { drawing, nodes, grouped: false });
        }
    }
    if groups.len() > GRAPH_NODES_MAX || groups.len() < 2 {
        return None;
    }
    let nodes =
        groups.iter().map(|(name, jobs)| group_node(&detail.run, name, jobs, now)).collect();
    let drawing = graph::layout(&between(&groups, jobs, needs));
    Some(Graph { drawing, nodes, grouped: true })
}

/// Jobs by the name that they have without their place in a matrix, in the order of the plan.
fn groups(jobs: &[JobRow]) -> Vec<(&str, Vec<&JobRow>)> {
    let mut groups: Vec<(&str, Vec<&JobRow>)> = Vec::new();
    let mut at = HashMap::new();
    for job in jobs {
        let place = *at.entry(job.group.as_str()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((&job.group, Vec::new()));
        }
        groups[place].1.push(job);
    }
    groups
}

/// For each group the positions of the groups that its jobs need.
fn between(
    groups: &[(&str, Vec<&JobRow>)],
    jobs: &[JobRow],
    needs: &[Rc<[usize]>],
) -> Vec<Vec<usize>> {
    let at: HashMap<&str, usize> =
        groups.iter().enumerate().map(|(at, group)| (group.0, at)).collect();
    let group_of: Vec<usize> = jobs.iter().map(|job| at[job.group.as_str()]).collect();
    let mut found = vec![Vec::new(); groups.len()];
    for (job, needs) in needs.iter().enumerate() {
        let own = &mut found[group_of[job]];
        for &need in needs.iter() {
            // Jobs of one group stand together, so most repetitions follow each other.
            if own.last() != Some(&group_of[need]) {
                own.push(group_of[need]);
            }
        }
    }
    found
}

fn job_node(run: &Run, job: &JobRow, now: Timestamp) -> Node {
    let note = match (timeline::began(job), job.state.is_over()) {
        _ if job.reused_from.is_some() => show::Html("reused".to_owned()),
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

    fn drawn(detail: &RunDetail) -> Option<Graph> {
        draw(detail, &timeline::needs(&detail.jobs), sample::NOW)
    }

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
        let graph = drawn(&detail).unwrap();
        assert!(graph.grouped);
        assert_eq!(graph.nodes.len(), 10);
        let node = &graph.nodes[0];
        assert_eq!(node.state, "failed");
        assert_eq!(node.label, "build ×100");
        let html = build(&detail, None, &[], sample::NOW).render().unwrap();
        assert_eq!(html.matches("class=\"job ").count(), 1_000);
    }

    #[test]
    fn a_matrix_that_is_too_high_for_a_screen_is_one_node() {
        let mut detail = sample::wide(41);
        for (at, job) in detail.jobs.iter_mut().enumerate() {
            (job.group, job.needs) = ("test".to_owned(), vec!["build".to_owned()]);
            job.job = format!("test:{at}");
        }
        let first = &mut detail.jobs[0];
        (first.job, first.group) = ("build".to_owned(), "build".to_owned());
        first.needs.clear();
        let graph = drawn(&detail).unwrap();
        let labels: Vec<&str> = graph.nodes.iter().map(|node| node.label.as_str()).collect();
        assert_eq!(labels, ["build", "test ×40"]);
        detail.jobs.truncate(12);
        assert_eq!(drawn(&detail).unwrap().nodes.len(), 12);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(cut("integration-tests:postgres-16,linux-arm64"), "integratio…nux-arm64");
        assert_eq!(cut("short"), "short");
    }
}

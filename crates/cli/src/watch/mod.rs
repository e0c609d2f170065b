//! Watching a run until it is over, from this process or from a server, on a terminal or not.
//!
//! One loop for all: look at the run ([`Picture`]), give the [`Viewer`] what is new, sleep until
//! there is news. News carry nothing; what is shown always comes from looking.
//!
//! Always: a viewer hears that an attempt began before its first byte, and that it ended after its
//! last one.

mod inotify;
pub mod json;
pub mod lines;
pub mod picture;
pub mod region;
pub mod shown;
pub mod source;
pub mod summary;
pub mod tree;

use std::time::Duration;

use kiln_model::JobState;
use kiln_stdx::clock::Stopwatch;

use crate::error::Result;
use crate::interrupt::{Interrupt, Interrupts};
pub use picture::Picture;
pub use shown::Shown;
pub use source::Watched;

/// How much of a log is read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How much of the end of a log is looked at to show its last line.
const TAIL_BYTES: usize = 4 << 10;
/// A moving picture needs no more, and eyes see no faster.
const FRAME: Duration = Duration::from_millis(100);
/// Jobs whose last line is read for one frame; no terminal shows more.
const TAILS_MAX: usize = 32;

/// Who shows a run. Jobs are named by their position.
pub trait Viewer {
    /// Called first, and again whenever something has changed.
    fn picture(&mut self, picture: &Picture) -> Result<()>;
    fn job_started(&mut self, picture: &Picture, job: usize, attempt: u32) -> Result<()>;
    fn log(&mut self, picture: &Picture, job: usize, attempt: u32, bytes: &[u8]) -> Result<()>;
    fn job_over(&mut self, picture: &Picture, job: usize) -> Result<()>;
    /// The last bytes of a running job's log.
    fn tail(&mut self, job: usize, bytes: &[u8]) -> Result<()>;
    /// Whether the last frame is old enough for another.
    fn is_frame_due(&self) -> bool {
        false
    }
    /// Draws the run, about once every [`FRAME`].
    fn frame(&mut self, picture: &Picture) -> Result<()>;
    /// A remark, such as that the run is being cancelled.
    fn say(&mut self, text: &str) -> Result<()>;
    /// What the viewer wants to hear of logs.
    fn wants(&self) -> Wants;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Every byte.
    Logs,
    /// The last line of each running job, and frames.
    Frames,
}

/// What an interrupt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// The first cancels the run, the second leaves it.
    Cancel,
    /// Watching ends; the run goes on.
    Leave,
}

/// How watching ended.
pub enum Ended {
    Over(Picture),
    /// An interrupt, before the run was over.
    Left(Picture),
}

/// What has been shown of one job.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    attempt: u32,
    offset: u64,
    /// The attempt's end has been shown.
    over: bool,
}

/// Watches until the run is over. `seen`: attempts that are not new to the person.
pub async fn watch(
    watched: &mut Watched,
    viewer: &mut dyn Viewer,
    interrupts: &mut Interrupts,
    on_interrupt: OnInterrupt,
    seen: Option<&Picture>,
) -> Result<Ended> {
    let mut shown = shown_before(seen);
    let mut cancelled = false;
    loop {
        let drawn = Stopwatch::start();
        let picture = watched.picture().await?;
        viewer.picture(&picture)?;
        shown.resize(picture.jobs.len(), Told::default());
        show(watched, viewer, &picture, &mut shown).await?;
        if picture.state.is_over() {
            return Ok(Ended::Over(picture));
        }
        match wait(watched, viewer, interrupts, &picture, drawn).await? {
            None => {}
            Some(_) if cancelled || on_interrupt == OnInterrupt::Leave => {
                return Ok(Ended::Left(picture));
            }
            Some(interrupt) => {
                cancelled = true;
                viewer.say(&interrupt.cancelling())?;
                let by = watched.by(interrupt);
                watched.cancel(&by).await?;
            }
        }
    }
}

fn shown_before(seen: Option<&Picture>) -> Vec<Told> {
    let jobs = seen.map(|picture| picture.jobs.as_slice()).unwrap_or_default();
    let of = |job: &picture::Job| Told {
        attempt: job.attempt,
        offset: u64::MAX,
        over: job.state.is_over(),
    };
    jobs.iter().map(of).collect()
}

/// Gives the viewer what is new.
async fn show(
    watched: &Watched,
    viewer: &mut dyn Viewer,
    picture: &Picture,
    shown: &mut [Told],
) -> Result<()> {
    for (at, (job, shown)) in picture.jobs.iter().zip(shown).enumerate() {
        while shown.attempt < job.attempt {
            // The attempt before may have ended and its last bytes not been shown.
            drain(watched, viewer, picture, at, shown).await?;
            if job.state == JobState::Queued && shown.attempt + 1 == job.attempt {
                break;
            }
            *shown = Told { attempt: shown.attempt + 1, offset: 0, over: false };
            if job.ran(shown.attempt) {
                viewer.job_started(picture, at, shown.attempt)?;
            }
        }
        if !job.state.is_over() {
            shown.over = false;
        }
        if shown.over || (shown.attempt == 0 && !job.state.is_over()) {
            continue;
        }
        drain(watched, viewer, picture, at, shown).await?;
        if job.state.is_over() {
            shown.over = true;
            viewer.job_over(picture, at)?;
        }
    }
    Ok(())
}

/// Gives the viewer the bytes of an attempt that it has not had.
async fn drain(
    watched: &Watched,
    viewer: &mut dyn Viewer,
    picture: &Picture,
    at: usize,
    shown: &mut Told,
) -> Result<()> {
    let nothing_ran =
        picture.jobs[at].reused_from.is_some() && shown.attempt == picture.jobs[at].attempt;
    if viewer.wants() != Wants::Logs
        || shown.attempt == 0
        || shown.offset == u64::MAX
        || nothing_ran
    {
        return Ok(());
    }
    loop {
        let bytes = watched.log(picture, at, shown.attempt, shown.offset, CHUNK_BYTES).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        shown.offset += bytes.len() as u64;
        viewer.log(picture, at, shown.attempt, &bytes)?;
    }
}

/// Sleeps until there is news or an interrupt; meanwhile draws frames.
async fn wait(
    watched: &mut Watched,
    viewer: &mut dyn Viewer,
    interrupts: &mut Interrupts,
    picture: &Picture,
    drawn: Stopwatch,
) -> Result<Option<Interrupt>> {
    let frames = viewer.wants() == Wants::Frames;
    if frames && viewer.is_frame_due() {
        tails(watched, viewer, picture).await?;
        viewer.frame(picture)?;
    }
    tokio::select! {
        biased;
        interrupt = interrupts.next() => return Ok(Some(interrupt)),
        () = watched.changed() => {}
        () = tokio::time::sleep(FRAME), if frames => return Ok(None),
    }
    // A thousand jobs change a thousand times a second; looking at all of them each time would be
    // quadratic. Small runs are looked at at once, and so is the end.
    let rest = picture.look_again_after().saturating_sub(drawn.elapsed());
    if rest.is_zero() {
        return Ok(None);
    }
    tokio::select! {
        biased;
        interrupt = interrupts.next() => Ok(Some(interrupt)),
        () = watched.over() => Ok(None),
        () = tokio::time::sleep(rest) => Ok(None),
    }
}

async fn tails(watched: &Watched, viewer: &mut dyn Viewer, picture: &Picture) -> Result<()> {
    let running = picture.jobs.iter().enumerate().filter(|(_, j)| j.state == JobState::Running);
    for (at, job) in running.take(TAILS_MAX) {
        let bytes = watched.tail(picture, at, job.attempt, TAIL_BYTES).await?;
        viewer.tail(at, &bytes)?;
    }
    Ok(())
}

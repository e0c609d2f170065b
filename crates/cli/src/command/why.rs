//! `kiln why`: what led to a state.

use crate::error::{Exit, Result};
use crate::origin::{Origin, OriginArgs};
use crate::output::{Output, Style, visible};
use crate::reference::Reference;

/// Explain why a run or a job is as it is
///
/// Why it ran, was skipped, waits (and for what), was cancelled (and by whom) or failed (which step,
/// and how it ended). Of a job with `inputs`: whose result it has, or what is another since it ran last.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12`, `project#12` or `project#12/test`
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    #[command(flatten)]
    at: OriginArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kiln why '#12'
  kiln why 'site#12/deploy'";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let origin = Origin::find(&args.reference, &args.at).await?;
    let mut why = origin.why(args.reference.job.as_deref()).await?;
    if matches!(origin, Origin::Local { .. }) {
        // As the person writes it.
        let job = args.reference.job.as_ref().map(|job| format!("/{job}")).unwrap_or_default();
        why.of = format!("{}{job}", origin.reference());
    }
    if args.json {
        out.json(&why)?;
        return Ok(Exit::Success);
    }
    let state = match why.summary.contains(&why.state) {
        true => String::new(),
        false => format!("{}: ", why.state),
    };
    let of = out.paint(Style::Bold, &why.of);
    out.lines(&format!("{of}  {state}{}\n", visible(&why.summary)))?;
    if let Some(trace) = &why.trace {
        out.lines("\n")?;
        for line in trace.lines() {
            out.lines(&format!("  {}\n", visible(line)))?;
        }
    }
    if let Some(compared) = &why.compared {
        let since = match &compared.with {
            Some(with) => format!("it ran, because since {with} this is another:"),
            None => "it ran:".to_owned(),
        };
        out.lines(&format!("\n{}\n", visible(&since)))?;
        for difference in &compared.differences {
            out.lines(&format!("  {}\n", visible(difference)))?;
        }
    }
    if !why.history.is_empty() {
        out.lines("\n")?;
    }
    for line in &why.history {
        let at = out.paint(Style::Dim, &line.at.to_string());
        out.lines(&format!("{at}  {}\n", visible(&line.text)))?;
    }
    Ok(Exit::Success)
}

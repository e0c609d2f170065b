//! `kiln artifacts`: files that jobs gave.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use kiln_api::user::ArtifactRow;
use kiln_stdx::bytes;
use kiln_stdx::fs::Named;

use crate::error::{Exit, Failure, Result};
use crate::origin::{Origin, OriginArgs};
use crate::output::{Cell, Output, Style, visible};
use crate::reference::Reference;

/// List the artifacts of a run, or fetch them
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `#12`, `project#12` or `project#12/build`
    #[arg(value_name = "RUN[/JOB]")]
    reference: Reference,
    /// `get`: fetch
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    at: OriginArgs,
    /// The list as a JSON array
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Fetch artifacts into a folder, or one of them to standard output
    Get {
        /// Only these, of a folder all that is in it; `*` stands for anything [default: all]
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
        /// Where to; `-` is standard output
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
    },
}

const EXAMPLES: &str = "\
Examples:
  kiln artifacts '#12'
  kiln artifacts 'site#12' get -o out
  kiln artifacts 'site#12/build' get 'target/*.deb'
  kiln artifacts 'site#12' get coverage -o out
  kiln artifacts 'site#12' get report.html -o - | less";

pub async fn run(args: Args, out: &Output) -> Result<Exit> {
    let origin = Origin::find(&args.reference, &args.at).await?;
    let mut rows = origin.artifacts().await?;
    if let Some(job) = &args.reference.job {
        // An unknown job is an error, one without artifacts is not.
        origin.job(job).await?;
        rows.retain(|row| row.job == *job);
    }
    match args.action {
        None if args.json => out.json(&rows)?,
        None if rows.is_empty() => out.note("no artifacts"),
        None => table(out, &rows)?,
        Some(Action::Get { paths, output }) => {
            let rows = newest(chosen(rows, &paths)?);
            if output == Path::new("-") {
                to_standard_output(out, &origin, &rows).await?;
            } else {
                to_folder(out, &origin, &rows, &output, args.json).await?;
            }
        }
    }
    Ok(Exit::Success)
}

fn table(out: &Output, rows: &[ArtifactRow]) -> Result<()> {
    let row = |row: &ArtifactRow| {
        vec![
            Cell::from(&row.job),
            Cell::from(row.attempt.to_string()),
            Cell::from(bytes::show(row.artifact.n_bytes)),
            Cell::styled(Style::Bold, &row.artifact.path),
        ]
    };
    out.table(&["job", "attempt", "size", "path"], &rows.iter().map(row).collect::<Vec<_>>())
}

/// The rows that a pattern names; each pattern must name one.
fn chosen(rows: Vec<ArtifactRow>, patterns: &[String]) -> Result<Vec<ArtifactRow>> {
    for pattern in patterns {
        if !rows.iter().any(|row| matches(pattern, &row.artifact.path)) {
            return Err(Failure::yours(format!("no artifact is called `{}`", visible(pattern)))
                .help("`kiln artifacts RUN` lists them"));
        }
    }
    let wanted = |row: &ArtifactRow| {
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &row.artifact.path))
    };
    Ok(rows.into_iter().filter(wanted).collect())
}

/// `*` stands for any characters, also for none. A folder's name means everything below it.
fn matches(pattern: &str, path: &str) -> bool {
    let folder = pattern.strip_suffix('/').unwrap_or(pattern);
    let mut above = path.match_indices('/').map(|(at, _)| &path[..at]);
    pattern_holds(pattern, path) || above.any(|above| pattern_holds(folder, above))
}

fn pattern_holds(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Of a job's attempts the last one that gave the file, in the order of the list.
fn newest(rows: Vec<ArtifactRow>) -> Vec<ArtifactRow> {
    let mut kept: Vec<ArtifactRow> = Vec::new();
    let mut places = HashMap::new();
    for row in rows {
        let place = *places
            .entry((row.job.clone(), row.artifact.path.clone()))
            .or_insert_with(|| kept.len());
        match kept.get_mut(place) {
            None => kept.push(row),
            Some(other) if other.attempt < row.attempt => *other = row,
            Some(_) => {}
        }
    }
    kept
}

async fn to_standard_output(out: &Output, origin: &Origin, rows: &[ArtifactRow]) -> Result<()> {
    match rows {
        [row] => origin.artifact(row, |bytes| out.bytes(bytes)).await,
        rows => Err(Failure::yours(format!("{} artifacts cannot go to one output", rows.len()))
            .help("name one of them, and its job when several jobs gave it")),
    }
}

async fn to_folder(
    out: &Output,
    origin: &Origin,
    rows: &[ArtifactRow],
    folder: &Path,
    json: bool,
) -> Result<()> {
    let mut n_jobs = HashMap::<&str, usize>::new();
    rows.iter().for_each(|row| *n_jobs.entry(&row.artifact.path).or_default() += 1);
    for row in rows {
        // Two jobs gave this path: each then has a folder of its own.
        let below = if n_jobs[row.artifact.path.as_str()] > 1 {
            folder.join(&row.job)
        } else {
            folder.to_owned()
        };
        let to = below.join(safe(&row.artifact.path)?);
        fetch(origin, row, &to).await?;
        if !json {
            let to = to.to_string_lossy();
            out.note(&format!("{} ({})", visible(&to), bytes::show(row.artifact.n_bytes)));
        }
    }
    if json { out.json(&rows) } else { Ok(()) }
}

/// Written beside its place and renamed, so that half a file never has its name.
async fn fetch(origin: &Origin, row: &ArtifactRow, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).named("create", folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).named("create a file in", folder)?;
    origin.artifact(row, |bytes| Ok(file.write_all(bytes).named("write", to)?)).await?;
    let mode = if row.artifact.executable { 0o755 } else { 0o644 };
    let permissions = fs::Permissions::from_mode(mode);
    file.as_file().set_permissions(permissions).named("set the mode of", to)?;
    file.persist(to).map_err(|error| error.error).named("write", to)?;
    Ok(())
}

/// A path that stays in the folder it is joined to, whatever a server says.
fn safe(path: &str) -> Result<&Path> {
    let safe = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if safe && !path.is_empty() {
        return Ok(Path::new(path));
    }
    Err(Failure::elsewhere(format!("the artifact's path `{}` leaves its folder", visible(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, path, holds) in [
            ("a.txt", "a.txt", true),
            ("a.txt", "a.txt.gz", false),
            ("*.deb", "target/x.deb", true),
            ("target/*.deb", "target/x.deb", true),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c", false),
            ("ab*ba", "aba", false),
            ("target", "target/x.deb", true),
            ("target/", "target/release/x.deb", true),
            ("*/release", "target/release/x.deb", true),
            ("targe", "target/x.deb", false),
            ("target/", "target", false),
        ] {
            assert_eq!(matches(pattern, path), holds, "{pattern} {path}");
        }
    }

    #[test]
    fn an_artifact_cannot_leave_its_folder() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "./x/.."] {
            assert!(safe(bad).is_err(), "{bad}");
        }
        assert!(safe("target/release/app").is_ok());
    }
}

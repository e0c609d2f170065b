//! `kiln`: what would run here.

use std::collections::BTreeMap;

use crate::command::plan;
use crate::error::{Exit, Result};
use crate::output::{Output, Style};
use crate::pipeline::{self, Wanted};
use crate::place::directory;

pub fn run(out: &Output) -> Result<Exit> {
    let from = directory(None)?;
    let tree = pipeline::repository(&from)?;
    let manifest = pipeline::manifest(&tree.root, &from, None)?;
    let (head, branch) = pipeline::head(&tree)?;
    let trigger = pipeline::local_trigger(head, branch, BTreeMap::new());
    match pipeline::plan(out, &manifest, &trigger)? {
        None => return Ok(Exit::Refused),
        Some(Wanted::Nothing(why)) => out.lines(&format!("nothing would run here: {why}\n"))?,
        Some(Wanted::Plan(plan)) => {
            plan::table(out, &plan)?;
            let hint =
                "\n`kiln run` runs it, `kiln run JOB` a part of it, `kiln --help` shows the rest";
            out.lines(&out.paint(Style::Dim, hint))?;
        }
    }
    Ok(Exit::Success)
}

//! What a pass has collected, by kind and project.

use std::collections::BTreeMap;

use kiln_api::user::{CollectedRow, GcReport};

use crate::report::whole;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Number and bytes.
    rows: BTreeMap<(&'static str, Option<String>), (u64, u64)>,
    trouble: Vec<String>,
    warnings: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, kind: &'static str, project: Option<String>, n: u64, n_bytes: u64) {
        let row = self.rows.entry((kind, project)).or_default();
        row.0 += n;
        row.1 += n_bytes;
    }

    pub fn say(&mut self, trouble: String) {
        // A full disk says the same of everything.
        if !self.trouble.contains(&trouble) {
            self.trouble.push(trouble);
        }
    }

    pub fn trouble(&mut self, doing: &str, error: &(dyn std::error::Error + 'static)) {
        self.say(format!("{doing}: {}", whole(error)));
    }

    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    pub fn report(self, dry_run: bool) -> GcReport {
        let row = |((kind, project), (n, n_bytes)): ((&'static str, _), _)| CollectedRow {
            kind: kind.to_owned(),
            project,
            n,
            n_bytes,
        };
        let collected: Vec<CollectedRow> = self.rows.into_iter().map(row).collect();
        let n_bytes = collected.iter().map(|row| row.n_bytes).sum();
        let (trouble, warnings) = (self.trouble, self.warnings);
        GcReport { dry_run, collected, n_bytes, trouble, warnings, verified: None }
    }
}

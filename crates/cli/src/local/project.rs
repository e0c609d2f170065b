//! A repository of this machine as a project: found by its folder, made when it is new.

use std::path::Path;

use kiln_model::ProjectName;
use kiln_stdx::{Clock, SystemClock};
use kiln_store::{NewProject, ProjectRow, StoreError};

use super::Local;
use crate::error::{Failure, Result};

impl Local {
    /// The project of a repository, if anything was ever run there.
    pub async fn known_project(&self, root: &Path) -> Result<Option<ProjectRow>> {
        let repo = text_of(root)?;
        let all = self.store.projects(0).await?;
        Ok(all.into_iter().map(|(project, _)| project).find(|project| project.repo == repo))
    }

    /// The project of a repository, made if need be. Its name is the folder's, made lawful and,
    /// when another folder has it, numbered.
    pub async fn project(&self, root: &Path) -> Result<ProjectRow> {
        let repo = text_of(root)?;
        loop {
            if let Some(project) = self.known_project(root).await? {
                return Ok(project);
            }
            let new = NewProject {
                name: self.free_name(root).await?,
                repo: repo.to_owned(),
                default_branch: None,
                poll_every_s: None,
                at: SystemClock.now(),
            };
            match self.store.add_project(new).await {
                // Another process was faster, perhaps with this very folder.
                Err(StoreError::Exists(_)) => {}
                answer => return Ok(answer?),
            }
        }
    }

    async fn free_name(&self, root: &Path) -> Result<ProjectName> {
        let wanted = lawful(&root.file_name().unwrap_or_default().to_string_lossy());
        let taken = self.store.projects(0).await?;
        let is_free = |name: &ProjectName| taken.iter().all(|(other, _)| other.name != *name);
        let candidates = std::iter::once(wanted.clone())
            .chain((2..).map(|n: u64| format!("{wanted}-{n}")))
            .filter_map(|name| ProjectName::new(name).ok());
        candidates.into_iter().find(is_free).ok_or_else(|| Failure::ours("no project name is free"))
    }
}

/// Rows hold text, and so must the name of the folder.
fn text_of(root: &Path) -> Result<&str> {
    root.to_str().ok_or_else(|| {
        Failure::yours(format!("the folder's name `{}` is not UTF-8", root.display()))
            .help("files with such names are fine; the path to the repository must be UTF-8")
    })
}

/// The nearest text that is a project's name. Leaves room for a number.
fn lawful(folder: &str) -> String {
    const MAX: usize = 80;
    let allowed = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = folder.chars().map(allowed).take(MAX).collect();
    let name = name.trim_start_matches(['-', '.']);
    if name.is_empty() { "repository".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_gives_a_lawful_name() {
        for (folder, name) in [
            ("kiln", "kiln"),
            (".dotfiles", "dotfiles"),
            ("My Project (2)", "My-Project--2-"),
            ("", "repository"),
            ("--", "repository"),
            ("épée\u{fffd}", "épée-"),
        ] {
            assert_eq!(lawful(folder), name);
            assert!(ProjectName::new(name).is_ok(), "{name}");
        }
        assert!(ProjectName::new(lawful(&"x".repeat(300))).is_ok());
    }
}

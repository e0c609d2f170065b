//! What a job finds of the caches that it asks for.

use std::path::{Path, PathBuf};

use kiln_model::layer::LayerId;
use kiln_model::plan::CacheRule;
use kiln_stdx::bytes;
use kiln_stdx::fs::FsError;

use super::entry::{Entry, name_of};
use super::part::{At, at};
use super::{CacheWish, Caches, Held, Outside, Plan, is_inside, overlap, shown};
use crate::workspaces::Stack;
use crate::{Base, Workspaces, tree};

impl Workspaces {
    /// Looks for the caches of a job that will see these layers. Nothing of it can fail a job: what
    /// cannot be had is a line. To be called under [`Workspaces::using`], until the job's workspace is
    /// made and [`Workspaces::lay_caches`] was called.
    pub fn find_caches(
        &self,
        wish: &CacheWish,
        base: &Base,
        layers: &[LayerId],
        own: &[LayerId],
    ) -> Caches {
        // Whoever makes the workspace will say what is wrong with them.
        let Ok(stack) = self.stack(base, layers, own) else { return Caches::default() };
        let mut caches = Caches {
            plan: Plan {
                project: wish.project.0,
                number: wish.number.0,
                scope: wish.write.clone(),
                layers: stack.layers.iter().map(|(_, folder)| self.relative(folder)).collect(),
                held: Vec::new(),
            },
            ..Caches::default()
        };
        for rule in &wish.rules {
            let found = match is_inside(&rule.path) {
                true => self.find_inside(wish, rule, &stack, &mut caches.own),
                false => self.find_outside(wish, rule, &caches.plan.held),
            };
            match found {
                Ok((held, line)) => {
                    caches.plan.held.push(held);
                    caches.lines.push(format!("{} ({line})", shown(rule)));
                }
                Err(line) => caches.lines.push(format!("{}: {line}", shown(rule))),
            }
        }
        caches
    }

    fn find_inside(
        &self,
        wish: &CacheWish,
        rule: &CacheRule,
        stack: &Stack,
        own: &mut Vec<LayerId>,
    ) -> Result<(Held, String), String> {
        let path = Path::new(&rule.path);
        let held = |began| Held { rule: rule.clone(), began, outside: None };
        if wish.goes_on {
            return Ok((held(Vec::new()), "as the earlier attempt had it".to_owned()));
        }
        if wish.below.iter().any(|below| overlap(&below.path, &rule.path)) {
            return Ok((held(Vec::new()), "as its needs left it".to_owned()));
        }
        let without = seen_at(stack, path).map_err(said)?;
        let (found, line) = self.look_up(wish, rule);
        let Some(entry) = found else { return Ok((held(Vec::new()), line)) };
        let top = entry.pieces.last().map(|piece| self.piece_dir(&piece.name).join(path));
        let is_folder = top.is_some_and(|top| top.is_dir());
        match without {
            Seen::Nothing => {}
            Seen::Folder if is_folder => {}
            Seen::Folder => return Err("not used: the source has a folder there".to_owned()),
            Seen::File(file) => {
                return Err(format!("not used: `{}` is no folder here", file.display()));
            }
        }
        own.extend(entry.pieces.iter().map(|piece| LayerId::Cache(piece.name.clone())));
        // What needs have left there is newer than any cache.
        for (_, folder) in &stack.layers {
            if let At::There { opaque, .. } = at(folder, path).map_err(said)? {
                let part = self.part(folder, &rule.path, opaque).map_err(said)?;
                own.push(LayerId::Cache(part.name));
            }
        }
        Ok((held(entry.pieces), line))
    }

    fn find_outside(
        &self,
        wish: &CacheWish,
        rule: &CacheRule,
        others: &[Held],
    ) -> Result<(Held, String), String> {
        let at = self.real_folder(wish, rule, others)?;
        let (found, line) = self.look_up(wish, rule);
        let began = found.map(|entry| entry.pieces).unwrap_or_default();
        let outside = Some(Outside { at, n: others.len() });
        Ok((Held { rule: rule.clone(), began, outside }, line))
    }

    /// The cache in the first scope that has it, and what to say of it.
    fn look_up(&self, wish: &CacheWish, rule: &CacheRule) -> (Option<Entry>, String) {
        let mut damaged = None;
        for scope in &wish.read {
            let name = name_of(wish.project, scope, rule);
            match self.cache_entry(&name) {
                Ok(Some(entry)) => {
                    self.touch_cache(&name);
                    let size = bytes::show(entry.n_bytes());
                    let line = format!("{}, {size}, from #{}", scope_shown(scope), entry.run);
                    return (Some(entry), line);
                }
                Ok(None) => {}
                Err(why) => {
                    // The next that is kept takes its place; until then nobody stumbles again.
                    let _ = tree::remove(&self.cache_file(&name));
                    damaged.get_or_insert(format!("{} was damaged: {why}", scope_shown(scope)));
                }
            }
        }
        (None, damaged.unwrap_or_else(|| "nothing kept yet".to_owned()))
    }

    /// A folder's name below the root of all.
    pub(super) fn relative(&self, folder: &Path) -> String {
        folder.strip_prefix(self.root()).unwrap_or(folder).to_string_lossy().into_owned()
    }
}

/// As people call it: a branch by its name.
pub(super) fn scope_shown(scope: &str) -> &str {
    scope.strip_prefix("branch/").unwrap_or(scope)
}

fn said(error: FsError) -> String {
    format!("{error}: {}", error.cause)
}

/// What a job would see at a cache's path without the cache.
enum Seen {
    Nothing,
    Folder,
    /// This, at the path or above it, is no folder. The cache must not bring back what was there
    /// before it.
    File(PathBuf),
}

fn seen_at(stack: &Stack, path: &Path) -> Result<Seen, FsError> {
    let below = stack.layers.iter().chain(&stack.own).map(|(_, folder)| folder);
    let source = stack.over.iter().rev().chain([&stack.base]);
    // Highest first.
    let mut folders: Vec<&PathBuf> = below.rev().chain(source).collect();
    let mut place = PathBuf::new();
    for part in path.components() {
        place.push(part);
        let mut going_on = Vec::new();
        for folder in folders {
            if *folder == stack.base && stack.hidden.contains(&place) {
                break;
            }
            match at(folder, &place)? {
                At::Nothing => {}
                At::Gone => break,
                At::There { meta, .. } if !meta.is_dir() => {
                    // A folder over it hides it.
                    if going_on.is_empty() {
                        return Ok(Seen::File(place));
                    }
                    break;
                }
                At::There { opaque, .. } => {
                    going_on.push(folder);
                    if opaque {
                        break;
                    }
                }
            }
        }
        if going_on.is_empty() {
            return Ok(Seen::Nothing);
        }
        folders = going_on;
    }
    Ok(Seen::Folder)
}

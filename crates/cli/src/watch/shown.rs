//! How a run is shown: as a tree on a terminal, as lines elsewhere, as JSON for programs; and what
//! each says at the end.

use kiln_model::RunState;

use super::json::Json;
use super::lines::Lines;
use super::tree::Tree;
use super::{Ended, Picture, Viewer, Watched, summary, watch};
use crate::error::{Exit, Result};
use crate::interrupt::Interrupts;
use crate::output::Output;

/// Where a run is shown.
pub struct Shown<'a> {
    pub out: &'a Output,
    pub json: bool,
}

/// The viewer, for what it says at the end.
pub enum Shower {
    Tree(Tree),
    Lines(Lines),
    Json(Json),
}

impl Shower {
    fn viewer(&mut self) -> &mut dyn Viewer {
        match self {
            Self::Tree(tree) => tree,
            Self::Lines(lines) => lines,
            Self::Json(json) => json,
        }
    }
}

impl Shown<'_> {
    pub async fn watch(
        &self,
        watched: &mut Watched,
        interrupts: &mut Interrupts,
        seen: Option<&Picture>,
    ) -> Result<(Ended, Shower)> {
        let mut shower = match (self.json, self.out.live) {
            (true, _) => Shower::Json(Json::new(*self.out)),
            (false, true) => Shower::Tree(Tree::new(*self.out)),
            (false, false) => Shower::Lines(Lines::new(*self.out)),
        };
        let on_interrupt = watched.on_interrupt();
        let ended = watch(watched, shower.viewer(), interrupts, on_interrupt, seen).await;
        if let Shower::Tree(tree) = &mut shower {
            tree.clear()?;
        }
        Ok((ended?, shower))
    }

    /// The last words.
    pub async fn end(&self, watched: &Watched, picture: &Picture, shower: Shower) -> Result<Exit> {
        let exit = summary::exit_of(picture.state);
        match shower {
            Shower::Json(json) => json.result(picture, exit)?,
            Shower::Tree(_) => {
                summary::tree(self.out, picture)?;
                summary::failures(self.out, watched, picture).await?;
                summary::warnings(self.out, picture)?;
                summary::verdict(self.out, picture)?;
            }
            Shower::Lines(_) => {
                if picture.state == RunState::Failed {
                    summary::failures(self.out, watched, picture).await?;
                }
                summary::verdict(self.out, picture)?;
            }
        }
        Ok(exit)
    }
}

//! Pushes that a hook left as files while no server answered.
//!
//! A file is removed after its push is a row. A crash in between reads it twice, and its key makes
//! that one push.

use std::path::PathBuf;

use kiln_api::user::Push;
use kiln_store::StoreError;

use super::delivery::{self, DeliveryError};
use crate::report;
use crate::state::App;

/// Larger than any push of a person: a hundred thousand refs.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Takes every push of the inbox, oldest first.
pub(crate) async fn read(app: &App) {
    let folder = app.places.inbox();
    let files = tokio::task::spawn_blocking(move || waiting(&folder)).await.unwrap_or_default();
    for file in files {
        match push_of(&file) {
            Ok(push) => match delivery::take(app, push).await {
                Ok(_) => drop(std::fs::remove_file(&file)),
                // Its project may have been removed; the row could not say whose it is.
                Err(error @ DeliveryError::NoProject(_)) => set_aside(&file, &error.to_string()),
                Err(DeliveryError::Store(StoreError::Conflict(_))) => {}
                Err(error) => report::say(&format!("inbox: {error}")),
            },
            Err(message) => set_aside(&file, &message),
        }
    }
}

/// Names begin with the time, so their order is that of the pushes.
fn waiting(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_push = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".json") && !name.starts_with('.')
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_push).collect();
    files.sort();
    files
}

fn push_of(file: &std::path::Path) -> Result<Push, String> {
    let n_bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if n_bytes > FILE_BYTES_MAX {
        return Err(format!("it has {n_bytes} bytes"));
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// Kept for a person to look at, and not tried again.
fn set_aside(file: &std::path::Path, why: &str) {
    let aside = file.with_extension("json.bad");
    report::say(&format!("inbox: `{}` is set aside: {why}", file.display()));
    if let Err(error) = std::fs::rename(file, &aside) {
        report::say(&format!("inbox: cannot rename `{}`: {error}", file.display()));
    }
}

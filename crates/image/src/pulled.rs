//! What a daemon says while it fetches an image: a line of JSON for each thing that happens.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Progress;

/// A line. What is not there is empty: daemons differ.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    id: String,
    status: String,
    #[serde(rename = "progressDetail")]
    detail: Detail,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: u64,
    total: u64,
}

/// All lines until now, as far as they matter.
#[derive(Default)]
pub(crate) struct Pulled {
    /// Of each layer, what came and how much it is.
    layers: BTreeMap<String, (u64, u64)>,
}

/// No image has more: what says so is not a daemon.
const LAYERS_MAX: usize = 1_000;

impl Pulled {
    /// Takes note of a line. Gives what went wrong when it says so.
    pub fn heed(&mut self, line: &str) -> Option<String> {
        let Ok(Line { id, status, detail, error }) = serde_json::from_str(line) else {
            return None;
        };
        if !error.is_empty() {
            return Some(error);
        }
        let is_known = self.layers.contains_key(&id);
        match status.as_str() {
            "Downloading" if detail.total > 0 && (is_known || self.layers.len() < LAYERS_MAX) => {
                self.layers.insert(id, (detail.current.min(detail.total), detail.total));
            }
            "Download complete" | "Pull complete" => {
                self.layers.entry(id).and_modify(|(came, of)| *came = *of);
            }
            _ => {}
        }
        None
    }

    pub fn progress(&self) -> Progress {
        let sum = |part: fn(&(u64, u64)) -> u64| self.layers.values().map(part).sum();
        let came = sum(|(came, _)| *came);
        Progress {
            n_layers: self.layers.len(),
            n_bytes: came,
            of_bytes: sum(|(_, of)| *of),
            n_fetched: came,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_added_up_and_an_error_is_heard() {
        let mut pulled = Pulled::default();
        for line in [
            r#"{"status":"Pulling from library/alpine","id":"latest"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":5,"total":50},"progress":"[>]","id":"b"}"#,
            r#"{"status":"Already exists","progressDetail":{},"id":"c"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"b"}"#,
            "nonsense",
        ] {
            assert_eq!(pulled.heed(line), None);
        }
        let expected = Progress { n_layers: 2, n_bytes: 60, of_bytes: 150, n_fetched: 60 };
        assert_eq!(pulled.progress(), expected);
        let failed = r#"{"errorDetail":{"message":"no"},"error":"no such host"}"#;
        assert_eq!(pulled.heed(failed).as_deref(), Some("no such host"));
    }
}

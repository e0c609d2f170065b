//! Scripts, styles and pictures, inside the binary.
//!
//! Their address has a digest of all of them in it (`/static/<digest>/app.js`), so a browser keeps
//! them for ever and one page never mixes two versions: scripts import each other relative to
//! their own address. A page that was open during an upgrade asks under the old digest; it gets the
//! new file and is told not to keep it.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $media_type:expr),+ $(,)?) => {
        &[$(Asset {
            name: $name,
            media_type: $media_type,
            bytes: include_bytes!(concat!("../../static/", $name)),
        }),+]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const ASSETS: &[Asset] = assets! {
    "kiln.css": STYLE,
    "log.css": STYLE,
    "theme.js": SCRIPT,
    "app.js": SCRIPT,
    "live.js": SCRIPT,
    "morph.js": SCRIPT,
    "time.js": SCRIPT,
    "timeline.js": SCRIPT,
    "graph.js": SCRIPT,
    "keys.js": SCRIPT,
    "palette.js": SCRIPT,
    "filter.js": SCRIPT,
    "action.js": SCRIPT,
    "inputs.js": SCRIPT,
    "log-view.js": SCRIPT,
    "log-lines.js": SCRIPT,
    "log-row.js": SCRIPT,
    "log-scroll.js": SCRIPT,
    "log-search.js": SCRIPT,
    "ansi.js": SCRIPT,
    "mark.svg": PICTURE,
};

static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for asset in ASSETS {
        hasher.update(asset.name.as_bytes()).update(asset.bytes);
    }
    hasher.finalize().to_hex()[..12].to_owned()
});

/// The folder under which the pages find their assets: `/static/0123456789ab`.
pub fn base() -> String {
    format!("/static/{}", *DIGEST)
}

/// `GET /static/{digest}/{name}`.
pub async fn serve(Path((digest, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    match find(&name) {
        Some((media_type, bytes)) => answer(digest == *DIGEST, media_type, bytes, &headers),
        None => super::error_page(StatusCode::NOT_FOUND, "There is no such file."),
    }
}

/// `GET /favicon.ico`, which browsers ask for when a page names no icon.
pub async fn favicon(headers: HeaderMap) -> Response {
    match find("mark.svg") {
        Some((media_type, bytes)) => answer(false, media_type, bytes, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn find(name: &str) -> Option<(&'static str, Vec<u8>)> {
    if let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) {
        return Some((asset.media_type, asset.bytes.to_vec()));
    }
    let word = name.strip_prefix("mark-")?.strip_suffix(".svg")?;
    Some((PICTURE, mark(word)?.into_bytes()))
}

/// The mark with a dot in the colour of a state, so that a tab tells how its run or job is.
fn mark(word: &str) -> Option<String> {
    let colour = match word {
        "queued" => "#8a817a",
        "running" => "#f2690d",
        "waiting" => "#7b5cd6",
        "success" => "#23874f",
        "warning" => "#b98a00",
        "failed" | "lost" => "#d42f3f",
        "cancelled" | "skipped" => "#6b645e",
        _ => return None,
    };
    let plain = include_str!("../../static/mark.svg");
    let dot = format!(
        "<circle cx=\"24\" cy=\"24\" r=\"8\" fill=\"{colour}\" stroke=\"#fff\" stroke-width=\"2\"/></svg>"
    );
    Some(plain.trim_end().strip_suffix("</svg>")?.to_owned() + &dot)
}

fn answer(current: bool, media_type: &str, bytes: Vec<u8>, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
    let keep = if current { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| {
        known
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|t| t == tag || t == "*")
    });
    let shared = [
        (header::ETAG, tag.as_str()),
        (header::CACHE_CONTROL, keep),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    match unchanged {
        true => (StatusCode::NOT_MODIFIED, shared).into_response(),
        false => (shared, [(header::CONTENT_TYPE, media_type)], bytes).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_is_kept_for_ever_only_under_its_own_digest() {
        let headers = HeaderMap::new();
        let kept = answer(true, STYLE, b"x".to_vec(), &headers);
        assert!(kept.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let old = answer(false, STYLE, b"x".to_vec(), &headers);
        assert_eq!(old.headers()[header::CACHE_CONTROL], "no-cache");
    }

    #[test]
    fn a_browser_that_has_it_is_not_sent_it_again() {
        let first = answer(true, STYLE, b"x".to_vec(), &HeaderMap::new());
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(answer(true, STYLE, b"x".to_vec(), &headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(answer(true, STYLE, b"y".to_vec(), &headers).status(), StatusCode::OK);
    }

    #[test]
    fn every_state_has_an_icon_for_its_tab() {
        let of_runs = kiln_model::RunState::ALL.iter().map(|state| state.as_str());
        let of_jobs = kiln_model::JobState::ALL.iter().map(|state| state.as_str());
        for word in of_runs.chain(of_jobs) {
            assert!(mark(word).is_some(), "{word}");
        }
        assert_eq!(mark("\"><script>"), None);
    }

    #[test]
    fn every_import_of_a_script_is_an_asset() {
        for asset in ASSETS.iter().filter(|asset| asset.media_type == SCRIPT) {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for import in text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next())
            {
                assert!(find(import).is_some(), "{} imports {import}", asset.name);
            }
        }
    }
}

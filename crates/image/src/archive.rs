//! Images in one file, as `docker save` writes them: a tar of layers, a configuration and `manifest.json`.
//!
//! Newer Dockers write an OCI layout into the same tar; `manifest.json` is there too and is enough.
//! Source: docs.docker.com/reference/cli/docker/image/save, moby's `image/tarexport`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::blob::{self, Budget};
use crate::images::LayerStore;
use crate::layout::file_error;
use crate::limit::{CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::reference::Reference;
use crate::{Files, Image, ImageError};

const BLOCK: u64 = 512;
/// Entries of one archive: a few for each layer.
const ENTRIES_MAX: usize = 16 * LAYERS_MAX;

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Where an entry's bytes are in the file.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    n_bytes: u64,
}

/// Reads the image and unpacks the layers that are not there. Blocking.
pub(crate) fn load(
    name: &str,
    files: &dyn Files,
    path: &Path,
    wanted: Option<&str>,
    (store, budget): (&dyn LayerStore, &Budget),
) -> Result<Image, ImageError> {
    let trouble = |cause: &io::Error| file_error(name, path, cause);
    let mut file = files.open(path).map_err(|cause| trouble(&cause))?;
    let entries = entries(&mut file).map_err(|cause| trouble(&cause))?;
    let read = |file: &mut File, entry: &str, most: u64| -> Result<Vec<u8>, ImageError> {
        let span = entries.get(entry).copied();
        let span =
            span.ok_or_else(|| ImageError::damaged(name, format!("the archive has no `{entry}`")))?;
        if span.n_bytes > most {
            return Err(ImageError::damaged(name, format!("`{entry}` is too large")));
        }
        let mut bytes = Vec::new();
        let all = at(file, span).and_then(|mut part| part.read_to_end(&mut bytes));
        all.map_err(|cause| trouble(&cause))?;
        Ok(bytes)
    };
    let manifest = read(&mut file, "manifest.json", MANIFEST_BYTES_MAX)?;
    let saved: Vec<Saved> = serde_json::from_slice(&manifest).map_err(|cause| {
        ImageError::damaged(name, format!("its `manifest.json` cannot be read: {cause}"))
    })?;
    let saved = choose(name, saved, wanted)?;
    let config = read(&mut file, &saved.config, CONFIG_BYTES_MAX)?;
    // The archive has no manifest of the registry's kind; its configuration names it as well.
    let image = Image::read(name, blob::digest(&config), &config)?;
    if image.layers.len() != saved.layers.len() {
        return Err(ImageError::damaged(
            name,
            "`manifest.json` and configuration differ in layers",
        ));
    }
    for (diff_id, entry) in image.layers.iter().zip(&saved.layers) {
        if store.has(diff_id) {
            continue;
        }
        let span = entries.get(entry.as_str()).copied();
        let span =
            span.ok_or_else(|| ImageError::damaged(name, format!("the archive has no `{entry}`")))?;
        let part = at(&mut file, span).map_err(|cause| trouble(&cause))?;
        blob::unpack(name, diff_id, part, budget, store)?;
    }
    Ok(image)
}

fn choose(name: &str, saved: Vec<Saved>, wanted: Option<&str>) -> Result<Saved, ImageError> {
    let tags: Vec<String> =
        saved.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned()).collect();
    let unknown = |why: String| ImageError::Unknown { name: name.to_owned(), why };
    let listed =
        || if tags.is_empty() { "images without names".to_owned() } else { tags.join(", ") };
    let same = |tag: &String, wanted: &str| {
        let full = |text: &str| text.parse::<Reference>().map(|name| name.to_string()).ok();
        tag == wanted || (full(tag).is_some() && full(tag) == full(wanted))
    };
    let position = match wanted {
        Some(wanted) => saved
            .iter()
            .position(|image| image.repo_tags.iter().flatten().any(|tag| same(tag, wanted)))
            .ok_or_else(|| unknown(format!("the archive has {}", listed())))?,
        None if saved.len() == 1 => 0,
        None => return Err(unknown(format!("say which: the archive has {}", listed()))),
    };
    saved.into_iter().nth(position).ok_or_else(|| unknown("the archive is empty".to_owned()))
}

fn at(file: &mut File, span: Span) -> io::Result<io::Take<&mut File>> {
    file.seek(SeekFrom::Start(span.from))?;
    Ok(file.take(span.n_bytes))
}

/// The regular files of a tar, by name. Only their headers are read.
fn entries(file: &mut File) -> io::Result<HashMap<String, Span>> {
    let damaged = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let n_all = file.metadata()?.len();
    let mut found = HashMap::new();
    let mut links: Vec<(String, String)> = Vec::new();
    let mut long: Option<String> = None;
    let mut at_byte = 0;
    let mut header = [0; BLOCK as usize];
    while at_byte + BLOCK <= n_all {
        file.seek(SeekFrom::Start(at_byte))?;
        file.read_exact(&mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        if &header[257..262] != b"ustar" {
            let what = if header.starts_with(&[0x1f, 0x8b]) {
                "it is compressed; unpack it with `gunzip` first"
            } else {
                "it is not a tar archive"
            };
            return Err(damaged(what));
        }
        let n_bytes =
            octal(&header[124..136]).ok_or_else(|| damaged("a size in its tar is no number"))?;
        let from = at_byte + BLOCK;
        if from.checked_add(n_bytes).is_none_or(|end| end > n_all) {
            return Err(damaged("it is cut short"));
        }
        let name = long.take().unwrap_or_else(|| text(&header[..100], &header[345..500]));
        match header[156] {
            b'0' | 0 => drop(found.insert(name, Span { from, n_bytes })),
            b'2' => links.push((name, text(&header[157..257], &[]))),
            // The name of the next entry, in GNU's and in POSIX's way.
            b'L' => long = Some(long_name(file, n_bytes)?),
            b'x' => long = pax_path(file, n_bytes)?,
            _ => {}
        }
        if found.len() + links.len() > ENTRIES_MAX {
            return Err(damaged("it has too many files"));
        }
        at_byte = from + n_bytes.div_ceil(BLOCK) * BLOCK;
    }
    // Older Dockers store a layer once and link to it: `abc/layer.tar -> ../def/layer.tar`.
    for (name, target) in links {
        let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
        let target = match target.strip_prefix("../") {
            Some(target) => folder.parent().unwrap_or(Path::new("")).join(target),
            None => folder.join(&target),
        };
        if let Some(span) = target.to_str().and_then(|target| found.get(target)).copied() {
            found.insert(name, span);
        }
    }
    Ok(found)
}

fn octal(field: &[u8]) -> Option<u64> {
    // Sizes from 8 GiB on are binary, their first bit set.
    if field[0] & 0x80 != 0 {
        let tail = &field[field.len() - 8..];
        return Some(u64::from_be_bytes(tail.try_into().ok()?));
    }
    let digits: Vec<u8> = field.iter().copied().filter(u8::is_ascii_digit).collect();
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

fn text(name: &[u8], prefix: &[u8]) -> String {
    let cut = |field: &[u8]| {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let (name, prefix) = (cut(name), cut(prefix));
    let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    name.strip_prefix("./").map(str::to_owned).unwrap_or(name)
}

const NAME_BYTES_MAX: u64 = 64 << 10;

fn long_name(file: &mut File, n_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(n_bytes.min(NAME_BYTES_MAX)).read_to_end(&mut bytes)?;
    Ok(text(&bytes, &[]))
}

/// `27 path=some/long/name\n`
fn pax_path(file: &mut File, n_bytes: u64) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    file.take(n_bytes.min(NAME_BYTES_MAX)).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let path = text.lines().find_map(|line| Some(line.split_once(" path=")?.1.to_owned()));
    Ok(path)
}

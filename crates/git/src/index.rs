//! git's index: which files were checked out, and how they looked then.
//!
//! `git status` trusts a file that still looks as its index says, and reads every other one. Without
//! an index all files of a workspace would be deleted in git's eyes. Written in version 2, which
//! every git and every library reads:
//!
//! ```text
//! DIRC version n_entries │ looks[40] id[20|32] flags[2] name 0…, up to a multiple of 8 │ … │ digest
//! ```

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_stdx::fs::Named;
use rustix::fs::FileType;
use sha2::Digest;

use crate::error::GitError;
use crate::sha1;
use crate::tree::Kind;

/// One file of an index. A submodule that was not fetched has no looks.
pub(crate) struct Line<'a> {
    pub path: &'a Path,
    pub kind: Kind,
    pub id: &'a str,
    pub looks: Option<Metadata>,
}

/// Longest name whose length fits beside the flags; of a longer one git looks for the end.
const NAME_BYTES_MAX: usize = 0xfff;

pub(crate) fn write(at: &Path, mut lines: Vec<Line<'_>>) -> Result<(), GitError> {
    lines.sort_unstable_by_key(|line| line.path.as_os_str().as_bytes());
    let mut bytes = head(lines.len());
    let id_bytes = lines.first().map_or(20, |line| line.id.len() / 2);
    for line in &lines {
        entry(line, &mut bytes);
    }
    finish(at, bytes, id_bytes)
}

/// The first of the files of a checkout that is not as its index says, or is not in it, or is missing.
/// `None`: all are as they were, or the index cannot be read. `id_bytes`: of the repository's ids.
pub fn unlike(at: &Path, id_bytes: usize, files: &[(PathBuf, Metadata)]) -> Option<PathBuf> {
    let bytes = fs::read(at).ok()?;
    let index = Index::parse(&bytes, id_bytes)?;
    let mut seen = vec![false; index.len()];
    for (path, meta) in files {
        let [mut file, _] = index.entries_of(path);
        match file.next() {
            Some(entry) if index.is_like(entry, meta) => seen[entry] = true,
            _ => return Some(path.clone()),
        }
    }
    let missing = (0..index.len()).find(|entry| !seen[*entry] && !index.is_submodule(*entry));
    missing.map(|entry| Path::new(OsStr::from_bytes(index.path(entry))).to_owned())
}

const HEAD_BYTES: usize = 12;

/// The id of an empty file.
const EMPTY_ID: [u8; 20] = [
    0xe6, 0x9d, 0xe2, 0x9b, 0xb2, 0xd1, 0xd6, 0x43, 0x4b, 0x8b, 0x29, 0xae, 0x77, 0x5a, 0xd8, 0xc2,
    0xe4, 0x8c, 0x53, 0x91,
];

const LOOKS_BYTES: usize = 40;

fn head(n_entries: usize) -> Vec<u8> {
    let mut bytes = b"DIRC".to_vec();
    bytes.extend(2_u32.to_be_bytes());
    bytes.extend(short(n_entries as u64).to_be_bytes());
    bytes
}

fn finish(at: &Path, mut bytes: Vec<u8>, id_bytes: usize) -> Result<(), GitError> {
    match id_bytes {
        32 => bytes.extend(sha2::Sha256::digest(&bytes)),
        _ => bytes.extend(sha1::of(&bytes)),
    }
    Ok(fs::write(at, bytes).named("write", at)?)
}

fn entry(line: &Line<'_>, bytes: &mut Vec<u8>) {
    let from = bytes.len();
    let mode = match line.kind {
        Kind::Executable => 0o100_755,
        Kind::Symlink => 0o120_000,
        Kind::Submodule => 0o160_000,
        Kind::File | Kind::Tree => 0o100_644,
    };
    let looks = match &line.looks {
        None => [0, 0, 0, 0, 0, 0, mode, 0, 0, 0],
        Some(meta) => [
            wrapped(meta.ctime()),
            wrapped(meta.ctime_nsec()),
            wrapped(meta.mtime()),
            wrapped(meta.mtime_nsec()),
            short(meta.dev()),
            short(meta.ino()),
            mode,
            meta.uid(),
            meta.gid(),
            short(meta.size()),
        ],
    };
    looks.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
    let digits = line.id.as_bytes().as_chunks::<2>().0;
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or_default() as u8;
    bytes.extend(digits.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)));
    let name = line.path.as_os_str().as_bytes();
    bytes.extend((name.len().min(NAME_BYTES_MAX) as u16).to_be_bytes());
    bytes.extend(name);
    // One to eight zeroes, up to a multiple of eight.
    let n_bytes = (bytes.len() - from + 8) / 8 * 8;
    bytes.resize(from + n_bytes, 0);
}

/// As git does: the lower half.
fn short(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}

fn wrapped(number: i64) -> u32 {
    short(number.cast_unsigned())
}

/// How a file looks, in the words of an index: both times, inode, mode, owner, group and size.
pub(crate) struct Stamp([u32; 9]);

impl Stamp {
    pub fn of(meta: &rustix::fs::Stat) -> Self {
        let mode = match FileType::from_raw_mode(meta.st_mode) {
            FileType::RegularFile if meta.st_mode & 0o100 != 0 => 0o100_755,
            FileType::RegularFile => 0o100_644,
            FileType::Symlink => 0o120_000,
            _ => 0,
        };
        Self([
            wrapped(meta.st_ctime),
            short(meta.st_ctime_nsec),
            wrapped(meta.st_mtime),
            short(meta.st_mtime_nsec),
            short(meta.st_ino),
            mode,
            meta.st_uid,
            meta.st_gid,
            short(meta.st_size.cast_unsigned()),
        ])
    }
}

/// An index that was read.
pub(crate) struct Index<'a> {
    bytes: &'a [u8],
    id_bytes: usize,
    /// Where each entry begins, and where the last ends.
    starts: Vec<usize>,
}

impl<'a> Index<'a> {
    /// `None` for one of another version, and for a damaged one.
    pub fn parse(bytes: &'a [u8], id_bytes: usize) -> Option<Self> {
        let number = |at: usize| bytes.get(at..)?.first_chunk().map(|n| u32::from_be_bytes(*n));
        if !bytes.starts_with(b"DIRC") || number(4)? != 2 {
            return None;
        }
        let n_entries = usize::try_from(number(8)?).ok()?;
        let before_name = LOOKS_BYTES + id_bytes + 2;
        // An entry has no less than 64 bytes: the number is no reason to take more memory than that.
        let mut starts = Vec::with_capacity(n_entries.min(bytes.len() / 64) + 1);
        let mut at = HEAD_BYTES;
        for _ in 0..n_entries {
            starts.push(at);
            let name = bytes.get(at + before_name..)?;
            let [high, low] = *bytes[at + before_name - 2..].first_chunk()?;
            let flags = usize::from(u16::from_be_bytes([high, low]));
            let n_bytes = match flags & NAME_BYTES_MAX {
                NAME_BYTES_MAX => name.iter().position(|byte| *byte == 0)?,
                n_bytes => n_bytes,
            };
            at += (before_name + n_bytes + 8) / 8 * 8;
        }
        starts.push(at);
        (at + id_bytes <= bytes.len()).then_some(Self { bytes, id_bytes, starts })
    }

    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn path(&self, entry: usize) -> &'a [u8] {
        let from = self.starts[entry] + LOOKS_BYTES + self.id_bytes + 2;
        let padded = &self.bytes[from..self.starts[entry + 1]];
        &padded[..padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len())]
    }

    /// The ids of all files with this name, in whichever folder.
    pub fn ids_of(&self, name: &str) -> Vec<String> {
        let named = |entry: &usize| {
            let path = self.path(*entry);
            path.strip_suffix(name.as_bytes())
                .is_some_and(|above| matches!(above.last(), None | Some(b'/')))
        };
        let id = |entry: usize| {
            let from = self.starts[entry] + LOOKS_BYTES;
            self.bytes[from..from + self.id_bytes].iter().map(|b| format!("{b:02x}")).collect()
        };
        (0..self.len()).filter(named).map(id).collect()
    }

    /// When a file was last modified, as the index knows: seconds since 1970, and nanoseconds.
    pub fn modified(&self, path: &Path) -> Option<(u32, u32)> {
        let [file, _] = self.entries_of(path);
        let looks = self.starts[file.clone().next()?];
        let number =
            |at: usize| self.bytes.get(looks + at..)?.first_chunk().map(|n| u32::from_be_bytes(*n));
        Some((number(8)?, number(12)?))
            .filter(|(seconds, nanos)| *seconds > 0 && *nanos < 1_000_000_000)
    }

    fn number(&self, entry: usize, at: usize) -> u32 {
        let looks = self.starts[entry] + at;
        let number = self.bytes.get(looks..).and_then(<[u8]>::first_chunk);
        number.map_or(0, |number| u32::from_be_bytes(*number))
    }

    /// Whether it says all that there is to say, and of each file once: no part of it lies elsewhere, and
    /// nobody has told git what to take for granted.
    pub fn is_plain(&self) -> bool {
        const MARKS: u8 = 0xf0;
        let flags = |entry: &usize| self.bytes[self.starts[*entry] + LOOKS_BYTES + self.id_bytes];
        let is_marked = |entry: usize| flags(&entry) & MARKS != 0;
        if (0..self.len()).any(is_marked) {
            return false;
        }
        let mut rest = &self.bytes[self.starts[self.len()]..self.bytes.len() - self.id_bytes];
        // `name[4] n_bytes[4] …`, with a name in small letters for what must be understood.
        while let Some((head, below)) = rest.split_first_chunk::<8>() {
            let n_bytes = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            let Some(next) = usize::try_from(n_bytes).ok().and_then(|n| below.get(n..)) else {
                return false;
            };
            if !head[0].is_ascii_uppercase() {
                return false;
            }
            rest = next;
        }
        rest.is_empty()
    }

    /// Whether a file looks in every way as it did.
    pub fn is_just(&self, entry: usize, now: &Stamp) -> bool {
        let then = [0, 4, 8, 12, 20, 24, 28, 32, 36].map(|at| self.number(entry, at));
        let id = self.starts[entry] + LOOKS_BYTES;
        // By a size of nothing git also says that it was not sure.
        let is_sure = now.0[8] != 0 || self.bytes[id..].starts_with(&EMPTY_ID);
        then == now.0 && is_sure && self.number(entry, 0) != 0
    }

    pub fn is_submodule(&self, entry: usize) -> bool {
        self.number(entry, 24) == 0o160_000
    }

    /// Whether a file may be what it was: by its size and the time of its last change.
    fn is_like(&self, entry: usize, meta: &Metadata) -> bool {
        let (seconds, nanos, size) =
            (self.number(entry, 8), self.number(entry, 12), self.number(entry, 36));
        // Nothing is known, or, of the size, git was not sure.
        let unknown = seconds == 0;
        unknown
            || seconds == wrapped(meta.mtime())
                && (nanos == 0 || nanos == wrapped(meta.mtime_nsec()))
                && (size == 0 || size == short(meta.size()))
    }

    /// Entries from the first that is not before `path`.
    fn position(&self, path: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.path(middle) < path {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The entry of a file, and those of everything in a folder of that name: two places, since
    /// `a-b` lies between `a` and `a/b`.
    fn entries_of(&self, path: &Path) -> [Range<usize>; 2] {
        let path = path.as_os_str().as_bytes();
        let file = self.position(path);
        let is_there = file < self.len() && self.path(file) == path;
        let folder = self.position(&[path, b"/"].concat());
        // `0` is the character after the slash.
        let end = self.position(&[path, b"0"].concat());
        [file..file + usize::from(is_there), folder..end]
    }

    /// The same index without the entries of `replaced`, and with those of `lines`.
    pub fn write_changed(
        &self,
        at: &Path,
        replaced: &[PathBuf],
        mut lines: Vec<Line<'_>>,
    ) -> Result<(), GitError> {
        lines.sort_unstable_by_key(|line| line.path.as_os_str().as_bytes());
        let cuts = replaced.iter().flat_map(|path| self.entries_of(path));
        let mut edits: Vec<(Range<usize>, Option<&Line<'_>>)> =
            cuts.filter(|entries| !entries.is_empty()).map(|entries| (entries, None)).collect();
        let n_cut: usize = edits.iter().map(|(entries, _)| entries.len()).sum();
        for line in &lines {
            let before = self.position(line.path.as_os_str().as_bytes());
            edits.push((before..before, Some(line)));
        }
        // Stable: lines for one place stay in order, and come before what is cut there.
        edits.sort_by_key(|(entries, line)| (entries.start, line.is_none()));
        let mut bytes = head(self.len() - n_cut + lines.len());
        bytes.reserve(self.bytes.len() + lines.len() * 100);
        let mut kept_to = 0;
        for (entries, line) in edits {
            let keep = self.starts[kept_to]..self.starts[entries.start.max(kept_to)];
            bytes.extend(&self.bytes[keep]);
            kept_to = kept_to.max(entries.end);
            if let Some(line) = line {
                entry(line, &mut bytes);
            }
        }
        bytes.extend(&self.bytes[self.starts[kept_to]..self.starts[self.len()]]);
        finish(at, bytes, self.id_bytes)
    }
}

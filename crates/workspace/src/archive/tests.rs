use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::header::{BLOCK, Header};
use super::*;
use crate::copy::Gone;
use crate::digest;
use crate::view::View;

const BOUNDS: Bounds = Bounds { bytes: 64 << 20, entries: 1000, depth: 40 };

fn header(path: &str, kind: u8) -> Header {
    Header { path: path.into(), kind, mode: 0o644, ..Header::default() }
}

fn file(path: &str, text: &str) -> (Header, Vec<u8>) {
    (Header { size: text.len() as u64, ..header(path, b'0') }, text.into())
}

fn link(path: &str, target: &str) -> (Header, Vec<u8>) {
    (Header { link: target.into(), ..header(path, b'2') }, Vec::new())
}

fn hard_link(path: &str, target: &str) -> (Header, Vec<u8>) {
    (Header { link: target.into(), ..header(path, b'1') }, Vec::new())
}

fn tar(entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, content) in entries {
        header.encode(&mut out);
        out.extend(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// A folder to unpack in, beside one that must stay as it is.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/precious"), "precious").unwrap();
        Self { folder }
    }

    fn to(&self) -> PathBuf {
        self.folder.path().join("into")
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(bytes, &self.to(), Over::Nothing, &BOUNDS)
    }

    fn is_untouched(&self) -> bool {
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().flatten().collect();
        names.retain(|entry| entry.path() != self.to());
        let outside = self.folder.path().join("outside");
        let precious = fs::read_to_string(outside.join("precious")).unwrap();
        names.len() == 1 && fs::read_dir(outside).unwrap().count() == 1 && precious == "precious"
    }
}

/// Refused, with these words; nothing is left and nothing outside is touched.
fn refused(entries: &[(Header, Vec<u8>)], words: &str) {
    let place = Place::new();
    let said = place.unpack(&tar(entries)).unwrap_err().to_string();
    assert!(said.contains(words), "{said}, not {words}");
    assert!(!place.to().exists(), "{words}");
    assert!(place.is_untouched(), "{words}");
}

#[test]
fn what_leads_out_of_the_folder_is_refused() {
    let out = "it leads out of the folder";
    for path in ["/etc/passwd", "../outside/new", "a/../../outside/new", "..", "a/.."] {
        refused(&[file(path, "x")], out);
        refused(&[(header(path, b'5'), vec![])], out);
        refused(&[file("a", "x"), hard_link("b", path)], out);
    }
    for target in ["../outside", "/", "/tmp", "."] {
        let through = "it leads through `l`, which is no folder";
        refused(&[link("l", target), file("l/new", "x")], through);
        refused(&[link("l", target), file("l/deep/new", "x")], through);
        refused(&[link("l", target), (header("l/new", b'5'), vec![])], through);
        refused(&[link("l", target), link("l/new", "x")], through);
        refused(&[link("l", target), hard_link("l2", "l/precious")], "no file");
        refused(&[link("l", target), file("l/.wh.precious", "")], "it leads through");
        refused(&[link("l", target), file("l/.wh..wh..opq", "")], "it leads through");
        refused(&[link("l", target), (header("l", b'5'), vec![])], "it is there twice");
        refused(&[link("l", target), file("l", "x")], "it is there twice");
    }
    refused(&[link("l", "../outside/precious"), hard_link("h", "l")], "no file `l` came before");
    refused(&[hard_link("h", "missing")], "no file `missing` came before");
    refused(&[(header("d", b'5'), vec![]), hard_link("h", "d")], "no file `d` came before");
}

#[test]
fn what_no_archive_may_hold_is_refused() {
    for kind in [b'3', b'4'] {
        refused(&[(header("null", kind), vec![])], "refused `null` of the archive: it is a device");
    }
    refused(&[(header("x", b'Z'), vec![])], "its kind `Z` is not known");
    refused(&[(header("x", b'S'), vec![])], "its kind `S` is not known");
    let zero = Header { path: b"a\0b".repeat(60), ..header("", b'0') };
    refused(&[(zero, vec![])], "a zero is in its name");
    refused(&[(header("", b'0'), vec![])], "it has no name");
    refused(&[file("a", "1"), file("a", "2")], "`a` of the archive: it is there twice");
    refused(&[file("a", "1"), file("./a", "2")], "it is there twice");
    refused(&[(header("d", b'5'), vec![]), (header("d/", b'5'), vec![])], "it is there twice");
    refused(&[file(".wh.a", ""), file("a", "2")], "it is there twice");
    refused(&[file("a", "1"), file("a/b", "2")], "it leads through `a`");
    for name in [".wh.", ".wh..", ".wh..."] {
        refused(&[file(name, "")], "it marks nothing as gone");
    }
    refused(&[(header("l", b'2'), vec![])], "it is a link to nothing");
}

#[test]
fn bounds_are_kept_and_named() {
    let deep = vec!["d"; 41].join("/");
    refused(&[file(&deep, "")], "more than 40 folders deep");
    let many: Vec<_> = (0..1001).map(|n| file(&format!("f{n}"), "")).collect();
    refused(&many, "refused `f1000` of the archive: more than 1000 files");
    // Ten gigabytes of zeros, in a few kilobytes.
    let mut bomb = Vec::new();
    header("zeros", b'0').encode(&mut bomb);
    Header { size: 10 << 30, ..header("zeros", b'0') }.encode(&mut bomb);
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed.write_all(&bomb[BLOCK..]).unwrap();
    for _ in 0..128 {
        packed.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let place = Place::new();
    let said = place.unpack(&packed.finish().unwrap()).unwrap_err().to_string();
    assert_eq!(said, "refused `zeros` of the archive: more than 67.1 MB unpacked");
    assert!(!place.to().exists() && place.is_untouched());
}

/// What is held in memory until the end is bounded, however small the archive is.
#[test]
fn more_names_and_holes_than_memory_should_hold_are_refused() {
    let mut map = b"2000000\n0\n0\n".to_vec();
    map.resize(BLOCK, b'0');
    let sparse = Header { sparse: Some(1 << 30), size: map.len() as u64, ..header("holes", b'0') };
    refused(&[(sparse, map)], "more than 1048576 holes in a file");
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for n in 0..300 {
        let xattrs = [("user.large".to_owned(), vec![0; 1_000_000])].into();
        let folder = Header { xattrs, ..header(&format!("d{n}"), b'5') };
        let mut bytes = Vec::new();
        folder.encode(&mut bytes);
        packed.write_all(&bytes).unwrap();
    }
    let place = Place::new();
    let bounds = Bounds { bytes: u64::MAX, ..BOUNDS };
    let bytes = packed.finish().unwrap();
    let error = unpack(&bytes[..], &place.to(), Over::Nothing, &bounds).unwrap_err().to_string();
    assert!(error.contains("of names and attributes"), "{error}");
    assert!(!place.to().exists() && place.is_untouched());
}

#[test]
fn a_damaged_archive_is_said_to_be_damaged() {
    let whole = tar(&[file("a", "text"), file("b", &"more".repeat(1000))]);
    let damaged = |bytes: &[u8], words: &str| {
        let place = Place::new();
        let said = place.unpack(bytes).unwrap_err().to_string();
        assert!(said.starts_with("the archive is damaged") && said.contains(words), "{said}");
        assert!(!place.to().exists());
    };
    for n in [0, 1, 511, 512, 600, 1024, 1536, 3000, whole.len() - 1024, whole.len() - 1] {
        damaged(&whole[..n], "it ends too early");
    }
    let mut wrong = whole.clone();
    wrong[3] ^= 1;
    damaged(&wrong, "the checksum of a header is wrong");
    damaged(&[&whole[..], b"more"].concat(), "something follows its end");
    damaged(&[&whole[..], &whole[..]].concat(), "something follows its end");
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed.include_checksum(true).unwrap();
    packed.write_all(&whole).unwrap();
    let packed = packed.finish().unwrap();
    assert!(Place::new().unpack(&packed).is_ok());
    damaged(&packed[..packed.len() - 1], "");
    damaged(&packed[..packed.len() / 2], "");
    damaged(&[&packed[..], b"garbage"].concat(), "");
    let mut wrong = packed.clone();
    *wrong.last_mut().unwrap() ^= 1;
    damaged(&wrong, "");
    let huge = Header { size: 1 << 30, ..header("x", b'x') };
    damaged(&tar(&[(huge, vec![])]), "longer than 1 MiB");
    for map in ["x", "1\n0\n", "1\n5\n99999999999999999999\n", "1\n9\n9\n", "2\n4\n1\n0\n1\n"] {
        let mut content = map.as_bytes().to_vec();
        content.resize(BLOCK, 0);
        let sparse = Header { size: BLOCK as u64, sparse: Some(10), ..header("s", b'0') };
        damaged(&tar(&[(sparse, content)]), "its map of holes");
    }
}

/// Whatever is changed in an archive, unpacking ends, and nothing outside is touched.
#[test]
fn a_mutated_archive_harms_nobody() {
    let seed = tempfile::tempdir().unwrap();
    fill(seed.path());
    let view = View::of(vec![seed.path().to_owned()]).unwrap();
    let mut packed = Vec::new();
    pack(&view, &mut packed).unwrap();
    let mut whole = zstd::decode_all(&packed[..]).unwrap();
    whole.extend(tar(&[link("l", "../outside"), file("l2", "x"), hard_link("l3", "l2")]));
    let place = Place::new();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..400 {
        let mut bytes = if random.u8(..4) == 0 { packed.clone() } else { whole.clone() };
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..5) {
                0 => bytes[at] ^= 1 << random.u8(..8),
                1 => bytes[at] = [0, b'/', b'.', 0xff, b'7'][random.usize(..5)],
                2 => bytes.truncate(at.max(1)),
                3 => {
                    let from = random.usize(..bytes.len()) / BLOCK * BLOCK;
                    let block = bytes[from..(from + BLOCK).min(bytes.len())].to_vec();
                    let at = (at / BLOCK * BLOCK).min(bytes.len().saturating_sub(block.len()));
                    bytes[at..at + block.len()].copy_from_slice(&block);
                }
                _ => mend(&mut bytes, at, &mut random),
            }
        }
        let _ = place.unpack(&bytes);
        crate::tree::remove(&place.to()).unwrap();
        assert!(place.is_untouched());
    }
}

/// Changes a header and makes its checksum right again: what gets past the first check.
fn mend(bytes: &mut [u8], at: usize, random: &mut fastrand::Rng) {
    let at = at / BLOCK * BLOCK;
    let Some(block) = bytes.get_mut(at..at + BLOCK) else { return };
    let field = [0, 1, 100, 124, 130, 156, 157, 345][random.usize(..8)];
    block[field] = b"/.0123567xgLK\x80\xff"[random.usize(..15)];
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// One of everything.
fn fill(folder: &Path) {
    let odd = folder.join(OsStr::from_bytes(b"odd \xff\n,:\\"));
    fs::create_dir(&odd).unwrap();
    fs::create_dir(odd.join("empty")).unwrap();
    fs::write(odd.join("file"), "text").unwrap();
    fs::write(folder.join("x".repeat(255)), "long").unwrap();
    fs::write(folder.join(".wh.only-a-name"), "").unwrap();
    fs::write(folder.join(".wh..wh..opq"), "").unwrap();
    fs::hard_link(odd.join("file"), folder.join("again")).unwrap();
    symlink("y".repeat(300), folder.join("link")).unwrap();
    symlink("../outside", folder.join("out")).unwrap();
    let hole = fs::File::create(folder.join("hole")).unwrap();
    hole.write_all_at(b"data", 1 << 20).unwrap();
    hole.set_len(3 << 20).unwrap();
    fs::File::create(folder.join("only-a-hole")).unwrap().set_len(5 << 40).unwrap();
    fs::write(folder.join("setuid"), vec![7; 300_000]).unwrap();
    fs::set_permissions(folder.join("setuid"), fs::Permissions::from_mode(0o4711)).unwrap();
    let pipe = folder.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // What a file system does not take cannot be lost either.
    let flags = rustix::fs::XattrFlags::empty();
    let _ = rustix::fs::setxattr(odd.join("file"), "user.a=b%", b"\0\n=", flags);
    for (name, seconds) in [("setuid", -5), ("again", 1_000_000_000)] {
        let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
        let path = folder.join(name);
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())
            .unwrap();
    }
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o555)).unwrap();
}

/// Everything that a digest leaves out: times, and how much of a file is stored.
fn looks(folder: &Path) -> Vec<(PathBuf, i64, i64, bool)> {
    let mut all = Vec::new();
    let view = View::of(vec![folder.to_owned()]).unwrap();
    view.walk(|entry| {
        let meta = fs::symlink_metadata(folder.join(&entry.path)).unwrap();
        let holes = meta.blocks() * 512 < meta.len() && meta.is_file();
        all.push((entry.path, meta.mtime(), meta.mtime_nsec(), holes));
        Ok::<(), kiln_stdx::fs::FsError>(())
    })
    .unwrap();
    all
}

fn packed(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(&View::of(vec![folder.to_owned()]).unwrap(), &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_packed_and_unpacked_is_the_same() {
    let place = Place::new();
    let from = place.folder.path().join("outside");
    fill(&from);
    let bytes = packed(&from);
    assert_eq!(packed(&from), bytes, "the same tree gives the same bytes");
    let digest = |folder: &Path| digest::of_view(&View::of(vec![folder.to_owned()]).unwrap());
    place.unpack(&bytes).unwrap();
    assert_eq!(digest(&place.to()).unwrap(), digest(&from).unwrap());
    assert_eq!(looks(&place.to()), looks(&from));
    assert_eq!(packed(&place.to()), bytes);
    let link = fs::read_link(place.to().join("link")).unwrap();
    assert_eq!(link.as_os_str().len(), 300);
}

/// The packer hands on what has gathered at any byte; blocks are counted from the beginning of the
/// archive. A tree of some hundred kilobytes was once packed into an archive that nobody could read.
#[test]
fn more_than_one_chunk_is_packed_in_whole_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    for n in 0..60 {
        let path = from.join(format!("file-{n:02}"));
        fs::write(&path, vec![b'x'; 12_099 + n * 977]).unwrap();
        // With a record of their own before them.
        symlink("x".repeat(120 + n), from.join(format!("file-{n:02}-link"))).unwrap();
    }
    let into = folder.path().join("into");
    let bounds = Bounds { bytes: 64 << 20, ..BOUNDS };
    unpack(&packed(&from)[..], &into, Over::Nothing, &bounds).unwrap();
    assert_eq!(looks(&from), looks(&into));
}

#[test]
fn other_peoples_archives_are_read() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    // What tar itself cannot say.
    fs::remove_file(from.path().join(".wh.only-a-name")).unwrap();
    fs::remove_file(from.path().join(".wh..wh..opq")).unwrap();
    let want = digest::of_view(&View::of(vec![from.path().to_owned()]).unwrap()).unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs"],
        &["--format=gnu", "--gzip"],
        &["--format=pax", "--gzip", "--xattrs"],
    ] {
        let holes = options.contains(&"--sparse");
        let mut command = kiln_stdx::process::command("tar");
        command.args(options).arg("-C").arg(from.path());
        // Written out, its hole would take all day.
        command.args(if holes {
            &["-c", "."][..]
        } else {
            &["-c", "--exclude=./only-a-hole", "."]
        });
        let bytes = kiln_stdx::process::output(&mut command).unwrap();
        let place = Place::new();
        place.unpack(&bytes).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        if !holes {
            fs::File::create(place.to().join("only-a-hole")).unwrap().set_len(5 << 40).unwrap();
        }
        let got = digest::of_view(&View::of(vec![place.to()]).unwrap()).unwrap();
        let has_attributes =
            rustix::fs::getxattr(place.to().join("again"), "user.a=b%", &mut [0; 8][..]);
        if options.contains(&"--xattrs") || has_attributes.is_ok() {
            assert_eq!(got, want, "{options:?}");
        }
    }
}

#[test]
fn tar_reads_our_archives() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    let file = from.path().join("only-a-hole");
    fs::remove_file(file).unwrap();
    let place = Place::new();
    let archive = place.folder.path().join("archive");
    fs::write(&archive, zstd::decode_all(&packed(from.path())[..]).unwrap()).unwrap();
    fs::create_dir(place.to()).unwrap();
    let mut command = kiln_stdx::process::command("tar");
    command.args(["--xattrs", "-xpf"]).arg(&archive).arg("-C").arg(place.to());
    kiln_stdx::process::output(&mut command).unwrap();
    let digest = |folder: &Path| digest::of_view(&View::of(vec![folder.to_owned()]).unwrap());
    assert_eq!(digest(&place.to()).unwrap(), digest(from.path()).unwrap());
}

#[test]
fn marks_become_what_the_layer_needs() {
    let bytes = tar(&[
        (header("d", b'5'), vec![]),
        file("d/.wh..wh..opq", ""),
        file("d/new", "new"),
        file("e/.wh.old", ""),
        file(".wh.gone", ""),
    ]);
    let into = tempfile::tempdir().unwrap();
    let done = unpack_as(&bytes[..], into.path(), Marks::Record, &BOUNDS).unwrap();
    let gone = Gone { deleted: vec!["e/old".into(), "gone".into()], opaque: vec!["d".into()] };
    assert_eq!(done, (Unpacked { n_entries: 5, n_gone: 3 }, gone));
    assert!(into.path().join("e").is_dir() && !into.path().join("e/old").exists());

    let into = tempfile::tempdir().unwrap();
    unpack_as(&bytes[..], into.path(), Marks::Overlay { user: true }, &BOUNDS).unwrap();
    let white_out = |path| fs::symlink_metadata(into.path().join(path)).unwrap();
    assert!(crate::tree::is_white_out(&white_out("gone")));
    assert!(crate::tree::is_white_out(&white_out("e/old")));
    assert!(crate::tree::is_opaque(&into.path().join("d")));

    let place = Place::new();
    for (path, text) in
        [("d/old", "1"), ("d/new", "old"), ("e/old", "1"), ("e/kept", "1"), ("gone/x", "1")]
    {
        let path = place.to().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let refused = place.unpack(&bytes).unwrap_err();
    assert!(refused.to_string().starts_with("there is something in"), "{refused}");
    assert!(place.to().join("d/old").exists());
    unpack(&bytes[..], &place.to(), Over::Files, &BOUNDS).unwrap();
    assert_eq!(fs::read_to_string(place.to().join("d/new")).unwrap(), "new");
    for (path, there) in [("d/old", false), ("e/old", false), ("e/kept", true), ("gone", false)] {
        assert_eq!(place.to().join(path).exists(), there, "{path}");
    }
}

#[test]
fn a_link_in_the_folder_is_not_followed_when_files_are_laid_over_it() {
    let place = Place::new();
    fs::create_dir(place.to()).unwrap();
    let outside = place.folder.path().join("outside");
    symlink(&outside, place.to().join("l")).unwrap();
    let over = |entries: &[(Header, Vec<u8>)]| {
        unpack(&tar(entries)[..], &place.to(), Over::Files, &BOUNDS).map(drop)
    };
    assert!(over(&[file("l/new", "x")]).is_err());
    assert!(over(&[file("l/.wh.precious", "")]).is_err());
    assert!(over(&[hard_link("h", "l")]).is_err());
    // In its place, not through it.
    over(&[(header("l", b'5'), vec![]), file("l/precious", "mine")]).unwrap();
    assert!(place.is_untouched());
    symlink(outside.join("precious"), place.to().join("f")).unwrap();
    over(&[file("f", "mine")]).unwrap();
    assert!(place.is_untouched());
}

/// A layer of an image in a folder of its own, beside one that must stay as it is.
fn image_layer(entries: &[(Header, Vec<u8>)]) -> (Place, Result<(), String>) {
    let place = Place::new();
    fs::create_dir(place.to()).unwrap();
    let done = unpack_as(&tar(entries)[..], &place.to(), Marks::Image { user: true }, &BOUNDS);
    assert!(place.is_untouched());
    (place, done.map(drop).map_err(|error| error.to_string()))
}

#[test]
fn builders_of_images_may_write_a_path_twice() {
    let folder = |path: &str| (header(path, b'5'), vec![]);
    let (place, done) = image_layer(&[
        folder("."),
        folder("d"),
        file("d/kept", "kept"),
        folder("d"),
        folder("."),
        file("f", "old"),
        file("f", "new"),
        file("/absolute", "inside"),
        folder("was-folder"),
        file("was-folder/x", "x"),
        file("was-folder", "a file now"),
        file("was-file", "x"),
        folder("was-file"),
        file("was-file/y", "y"),
        link("link", "/etc/passwd"),
        hard_link("second-link", "link"),
        link("l", "../outside"),
        folder("l"),
        file("l/in", "in"),
    ]);
    done.unwrap();
    let text = |path: &str| fs::read_to_string(place.to().join(path)).unwrap();
    for (path, is) in [
        ("d/kept", "kept"),
        ("f", "new"),
        ("absolute", "inside"),
        ("was-folder", "a file now"),
        ("was-file/y", "y"),
        ("l/in", "in"),
    ] {
        assert_eq!(text(path), is, "{path}");
    }
    let second = fs::read_link(place.to().join("second-link")).unwrap();
    assert_eq!(second, Path::new("/etc/passwd"));
}

/// Go's tar, which most builders use, ends an archive as it likes and reads it so.
#[test]
fn a_layer_of_an_image_ends_as_its_builder_likes() {
    let whole = tar(&[file("a", "text")]);
    let without_end = &whole[..2 * BLOCK];
    let with_more = [&whole[..], b"more"].concat();
    for layer in [&b""[..], without_end, &whole[..3 * BLOCK], &with_more] {
        let place = Place::new();
        fs::create_dir(place.to()).unwrap();
        unpack_as(layer, &place.to(), Marks::Image { user: true }, &BOUNDS).unwrap();
        assert_eq!(place.to().join("a").exists(), !layer.is_empty());
    }
    let cut =
        unpack_as(&whole[..700], Place::new().folder.path(), Marks::Image { user: true }, &BOUNDS);
    assert!(cut.unwrap_err().to_string().contains("it ends too early"));
}

/// What an ordinary user cannot give is told, as the last entry of a name has it.
#[test]
fn the_owners_of_an_image_are_told() {
    let of = |path: &str, kind: u8, uid: u32, mode: u32| {
        (Header { uid, gid: uid, mode, ..header(path, kind) }, Vec::new())
    };
    let place = Place::new();
    fs::create_dir(place.to()).unwrap();
    let layer = tar(&[
        of("home", b'5', 1000, 0o755),
        of("home/tool", b'0', 1000, 0o4755),
        of("twice", b'0', 1000, 0o644),
        of("twice", b'0', 0, 0o644),
        of("folder/in", b'0', 7, 0o644),
        of("folder", b'0', 0, 0o644),
        of("plain", b'0', 0, 0o644),
    ]);
    let told = unpack_image(&layer[..], &place.to(), Marks::Image { user: true }, &BOUNDS).unwrap();
    let told: Vec<_> =
        told.iter().map(|one| (one.path.to_str().unwrap(), one.uid, one.mode)).collect();
    assert_eq!(told, [("home/tool", 1000, Some(0o4755)), ("home", 1000, None)]);
}

#[test]
fn what_an_image_says_is_gone_is_what_was_below() {
    let folder = |path: &str| (header(path, b'5'), vec![]);
    let (place, done) = image_layer(&[
        file("before", "stays"),
        file(".wh.before", ""),
        file(".wh.after", ""),
        file("after", "stays"),
        file(".wh.d", ""),
        folder("d"),
        file("d/new", "new"),
        folder("e"),
        file("e/new", "new"),
        file(".wh.e", ""),
        file(".wh.proc", ""),
        file(".wh..wh..opq", ""),
        (header("null", b'3'), vec![]),
    ]);
    done.unwrap();
    for path in ["before", "after", "d/new", "e/new"] {
        assert!(fs::symlink_metadata(place.to().join(path)).unwrap().is_file(), "{path}");
    }
    for path in ["d", "e", "."] {
        assert!(crate::tree::is_opaque(&place.to().join(path)), "{path}");
    }
    let proc = fs::symlink_metadata(place.to().join("proc")).unwrap();
    assert!(crate::tree::is_white_out(&proc));
    // Devices are the container's to have or not to have.
    assert!(!place.to().join("null").exists());
}

#[test]
fn a_layer_of_an_image_reaches_nothing_outside() {
    type Refusal<'a> = (&'a [(Header, Vec<u8>)], &'a str);
    let cases: &[Refusal<'_>] = &[
        (&[file("../outside/new", "x")], "it leads out of the folder"),
        (&[file("/../outside/new", "x")], "it leads out of the folder"),
        (&[file("a", "x"), hard_link("b", "../outside/precious")], "it leads out of the folder"),
        (&[hard_link("b", "/etc/passwd")], "no file"),
        (&[link("l", "../outside"), file("l/new", "x")], "it leads through `l`"),
        (&[link("l", "../outside"), file("l/.wh.precious", "")], "it leads through `l`"),
        (&[link("l", "../outside"), file("l/.wh..wh..opq", "")], "it leads through `l`"),
        (&[link("l", "../outside"), hard_link("h", "l/precious")], "no file"),
        (&[file(".wh..", "")], "marks nothing"),
        (&[file(".wh...", "")], "marks nothing"),
    ];
    for (entries, words) in cases {
        let (_, done) = image_layer(entries);
        let said = done.expect_err(words);
        assert!(said.contains(words), "{said}, not {words}");
    }
    let (place, done) = image_layer(&[file("a\nb", "newline"), file("-rf", "dash")]);
    done.unwrap();
    assert!(place.to().join("a\nb").is_file());
}

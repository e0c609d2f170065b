use std::io::Write;

use super::*;

const AT: Timestamp = Timestamp::from_millis(1_795_227_048_000);

struct Kept {
    objects: Objects,
    entries: Vec<Entry>,
    folder: tempfile::TempDir,
}

fn kept(files: &[(&str, &[u8], bool)]) -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::new(&folder.path().join("objects"));
    let entry = |(path, bytes, executable): &(&str, &[u8], bool)| {
        let (digest, n_bytes) = objects.put(*bytes).unwrap();
        Entry { path: (*path).to_owned(), n_bytes, digest, executable: *executable }
    };
    let entries = files.iter().map(entry).collect();
    Kept { objects, entries, folder }
}

fn written(kept: &Kept, format: Format) -> Vec<u8> {
    let mut archive = Archive::new(format, &kept.entries, AT, kept.objects.clone());
    let promised = archive.n_bytes;
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, promised);
    bytes
}

fn some() -> Kept {
    let large: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let long = format!("{}/\u{f8}.txt", "deep/".repeat(40));
    kept(&[
        ("bin/app", b"#!/bin/sh\n", true),
        ("empty", b"", false),
        (&long, b"long name", false),
        ("large.bin", &large, false),
        ("exact", &large[..2 * 65_535], false),
        ("\u{65e5}\u{672c}.txt", b"odd", false),
    ])
}

#[test]
fn a_tar_unpacks_to_the_same_files() {
    use std::os::unix::fs::PermissionsExt;
    let kept = some();
    let out = kept.folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let file = kept.folder.path().join("all.tar");
    std::fs::write(&file, written(&kept, Format::Tar)).unwrap();
    let mut tar = kiln_stdx::process::command("tar");
    tar.arg("-xf").arg(&file).arg("-C").arg(&out);
    kiln_stdx::process::output(&mut tar).unwrap();
    for entry in &kept.entries {
        let path = out.join(&entry.path);
        let mut whole = Vec::new();
        kept.objects.open(&entry.digest).unwrap().read_to_end(&mut whole).unwrap();
        assert!(std::fs::read(&path).unwrap() == whole, "{}", entry.path);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111 != 0, entry.executable, "{}", entry.path);
    }
}

fn two(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn eight(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What blocks of deflate hold, and where they end.
fn inflated(bytes: &[u8], mut at: usize) -> (Vec<u8>, usize) {
    let mut whole = Vec::new();
    loop {
        let (kind, length) = (bytes[at], two(bytes, at + 1));
        assert_eq!(two(bytes, at + 3), 0xffff ^ length);
        whole.extend(&bytes[at + 5..at + 5 + length]);
        at += 5 + length;
        if kind == 1 {
            return (whole, at);
        }
        assert_eq!(kind, 0);
    }
}

#[test]
fn a_zip_has_every_file_where_its_directory_says() {
    let kept = some();
    let zip = written(&kept, Format::Zip);
    let end = zip.len() - 22;
    assert_eq!((four(&zip, end), two(&zip, end + 10)), (0x0605_4b50, kept.entries.len()));
    let mut at = four(&zip, end + 16) as usize;
    for entry in &kept.entries {
        assert_eq!(four(&zip, at), 0x0201_4b50);
        let name = &zip[at + 46..at + 46 + two(&zip, at + 28)];
        assert_eq!(std::str::from_utf8(name).unwrap(), entry.path);
        let mode = if entry.executable { 0o100_755 } else { 0o100_644 };
        assert_eq!(four(&zip, at + 38) >> 16, mode);
        let local = four(&zip, at + 42) as usize;
        assert_eq!(four(&zip, local), 0x0403_4b50);
        let (bytes, after) = inflated(&zip, local + 30 + two(&zip, local + 26));
        let mut crc = Crc::default();
        crc.add(&bytes);
        assert_eq!((bytes.len() as u64, four(&zip, at + 16)), (entry.n_bytes, crc.sum()));
        let sizes = [four(&zip, at + 20), four(&zip, at + 24)];
        assert_eq!((four(&zip, after), four(&zip, after + 4)), (0x0807_4b50, four(&zip, at + 16)));
        assert_eq!([four(&zip, after + 8), four(&zip, after + 12)], sizes);
        at += 46 + name.len() + two(&zip, at + 30);
    }
    assert_eq!(at, end);
}

#[test]
fn what_32_bits_do_not_hold_stands_in_64() {
    const LARGE: u64 = 9 << 30;
    let entry = |path: &str, n_bytes| Entry {
        path: path.to_owned(),
        n_bytes,
        digest: Digest::from_bytes([1; 32]),
        executable: false,
    };
    let entries = [entry("large", LARGE), entry("after", 1)];
    let folder = tempfile::tempdir().unwrap();
    let mut zip = Archive::new(Format::Zip, &entries, AT, Objects::new(folder.path()));
    let Some(Part::Bytes(end)) = zip.parts.pop_back() else { panic!("it has an end") };
    let Some(Part::Checked(directory)) = zip.parts.pop_back() else { panic!("and a directory") };
    assert_eq!(
        (four(&end, 0), four(&end, 56), four(&end, 76)),
        (0x0606_4b50, 0x0706_4b50, 0x0605_4b50)
    );
    let directory = directory.fill(&[7, 8]);
    let second = 46 + 5 + 4 + 16;
    assert_eq!((four(&directory, 24), eight(&directory, 46 + 5 + 4)), (u32::MAX, LARGE));
    assert_eq!(eight(&directory, 46 + 5 + 4 + 8), deflated(LARGE));
    // Where the second begins: after the first's header, bytes and sums.
    let offset = 30 + 5 + 20 + deflated(LARGE) + 24;
    assert_eq!(eight(&directory, second + 46 + 5 + 4), offset);
    assert_eq!((four(&directory, 16), four(&directory, second + 16)), (7, 8));

    let mut tar = Archive::new(Format::Tar, &entries, AT, Objects::new(folder.path()));
    let Some(Part::Bytes(header)) = tar.parts.pop_front() else { panic!("it has a header") };
    let text = String::from_utf8_lossy(&header[512..1024]);
    assert!(text.starts_with(&format!("19 size={LARGE}\n")), "{text:?}");
}

#[test]
fn a_file_that_has_shrunk_breaks_the_archive_off() {
    for format in [Format::Tar, Format::Zip] {
        let kept = some();
        let path = kept.objects.path(&kept.entries[3].digest);
        std::fs::File::create(path).unwrap().write_all(b"short").unwrap();
        let mut archive = Archive::new(format, &kept.entries, AT, kept.objects.clone());
        assert!(archive.read_to_end(&mut Vec::new()).is_err());
    }
}

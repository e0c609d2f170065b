//! The 512 bytes in front of every entry of a tar, and the PAX records that say what they cannot.

use std::collections::BTreeMap;

pub(super) const BLOCK: usize = 512;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;

/// One entry as the archive tells it, whatever of it was in PAX records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub path: Vec<u8>,
    /// As tar has it: `0` a file, `1` a hard link, `2` a link, `5` a folder, `6` a fifo.
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes that follow in the archive.
    pub size: u64,
    /// Seconds and nanoseconds since 1970; the nanoseconds count upwards also before.
    pub mtime: (i64, u32),
    pub link: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The size with holes, when the content begins with a map of them.
    pub sparse: Option<u64>,
    /// A name that only looks like a mark.
    pub plain: bool,
}

/// PAX records, as they are written and read.
pub(super) type Records = BTreeMap<String, Vec<u8>>;

/// What a header's own fields can hold.
const ID_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;

impl Header {
    /// The bytes for the archive: PAX records where they are needed, then the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let body = encode_records(&records);
            let size = body.len() as u64;
            let name = b"././@PaxHeader".to_vec();
            let pax = Self { path: name, kind: b'x', mode: 0o644, size, ..Self::default() };
            out.extend(pax.block());
            out.extend(&body);
            // Not up to where `out` would be even: it may begin anywhere in the archive.
            out.resize(out.len() + body.len().next_multiple_of(BLOCK) - body.len(), 0);
        }
        out.extend(self.block());
    }

    fn records(&self) -> Records {
        let mut records = Records::new();
        let mut put = |key: &str, value: Vec<u8>| records.insert(key.to_owned(), value);
        let long = |bytes: &[u8], max: usize| bytes.len() > max || !bytes.is_ascii();
        if let Some(size) = self.sparse {
            put("GNU.sparse.major", b"1".to_vec());
            put("GNU.sparse.minor", b"0".to_vec());
            put("GNU.sparse.name", self.path.clone());
            put("GNU.sparse.realsize", size.to_string().into());
        } else if long(&self.path, NAME.len()) {
            put("path", self.path.clone());
        }
        if long(&self.link, LINK.len()) {
            put("linkpath", self.link.clone());
        }
        if str::from_utf8(&self.path).is_err() || str::from_utf8(&self.link).is_err() {
            put("hdrcharset", b"BINARY".to_vec());
        }
        if self.mtime.1 != 0
            || u64::try_from(self.mtime.0).is_ok_and(|s| s > SIZE_MAX)
            || self.mtime.0 < 0
        {
            put("mtime", show_time(self.mtime).into());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > ID_MAX {
                put(key, id.to_string().into());
            }
        }
        if self.size > SIZE_MAX {
            put("size", self.size.to_string().into());
        }
        if self.plain {
            put(super::PLAIN, b"1".to_vec());
        }
        for (name, value) in &self.xattrs {
            // As GNU tar does: `=` ends the key of a record.
            let name = name.replace('%', "%25").replace('=', "%3D");
            put(&format!("{}{name}", super::XATTR), value.clone());
        }
        records
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |range: std::ops::Range<usize>, bytes: &[u8]| {
            let n = bytes.len().min(range.len());
            block[range][..n].copy_from_slice(&bytes[..n]);
        };
        text(NAME, &self.path);
        text(LINK, &self.link);
        text(MAGIC, b"ustar\0");
        text(263..265, b"00");
        let octal = |n: u64, digits: usize| format!("{n:0digits$o}\0");
        text(MODE, octal(u64::from(self.mode & 0o7777), 7).as_bytes());
        text(UID, octal(u64::from(self.uid.min(ID_MAX)), 7).as_bytes());
        text(GID, octal(u64::from(self.gid.min(ID_MAX)), 7).as_bytes());
        text(SIZE, octal(self.size.min(SIZE_MAX), 11).as_bytes());
        let seconds = u64::try_from(self.mtime.0).unwrap_or(0).min(SIZE_MAX);
        text(MTIME, octal(seconds, 11).as_bytes());
        block[KIND] = self.kind;
        block[SUM].fill(b' ');
        let sum = format!("{:06o}\0 ", sum(&block));
        block[SUM].copy_from_slice(sum.as_bytes());
        block
    }

    /// Reads a header without its records. `None`: a block of zeros, which ends the archive.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Option<Self>, String> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut blank = *block;
        blank[SUM].fill(b' ');
        let said = number(&block[SUM]).ok_or("a header has no checksum")?;
        if said != i128::from(sum(&blank)) {
            return Err("the checksum of a header is wrong".to_owned());
        }
        let unsigned = |range, what: &str| {
            let n = number(&block[range]).and_then(|n| u64::try_from(n).ok());
            n.ok_or_else(|| format!("a header has no {what}"))
        };
        let id = |range, what: &str| {
            u32::try_from(unsigned(range, what)?).map_err(|_| format!("the {what} is too large"))
        };
        let mut path = text(&block[NAME]).to_vec();
        let prefix = text(&block[PREFIX]);
        if &block[MAGIC] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        Ok(Some(Self {
            path,
            kind: block[KIND],
            mode: (unsigned(MODE, "mode")? & 0o7777) as u32,
            uid: id(UID, "owner")?,
            gid: id(GID, "group")?,
            size: unsigned(SIZE, "size")?,
            mtime: (number(&block[MTIME]).and_then(|n| n.try_into().ok()).unwrap_or(0), 0),
            link: text(&block[LINK]).to_vec(),
            ..Self::default()
        }))
    }

    /// What PAX records say goes before what the header says.
    pub fn amend(&mut self, records: Records) -> Result<(), String> {
        let mut sparse = (None, None);
        for (key, value) in records {
            let number = || {
                let text = str::from_utf8(&value).ok();
                text.and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(|| format!("`{key}` is no number"))
            };
            let id = || u32::try_from(number()?).map_err(|_| format!("`{key}` is too large"));
            match key.as_str() {
                "path" | "GNU.sparse.name" => self.path = value,
                "linkpath" => self.link = value,
                "uid" => self.uid = id()?,
                "gid" => self.gid = id()?,
                "size" => self.size = number()?,
                "mtime" => {
                    self.mtime = read_time(&value).ok_or("`mtime` is no time")?;
                }
                "GNU.sparse.major" => sparse.0 = Some(number()?),
                "GNU.sparse.minor" => sparse.1 = Some(number()?),
                "GNU.sparse.realsize" => self.sparse = Some(number()?),
                super::PLAIN => self.plain = true,
                _ if key.starts_with("GNU.sparse.") => {
                    return Err("it has holes in an old format; only GNU's 1.0 is read".to_owned());
                }
                _ => {
                    if let Some(name) = key.strip_prefix(super::XATTR) {
                        self.xattrs.insert(name.replace("%3D", "=").replace("%25", "%"), value);
                    }
                }
            }
        }
        match (sparse, self.sparse) {
            ((None, None), None) | ((Some(1), Some(0)), Some(_)) => Ok(()),
            _ => Err("it has holes in an old format; only GNU's 1.0 is read".to_owned()),
        }
    }
}

fn sum(block: &[u8; BLOCK]) -> u32 {
    block.iter().map(|byte| u32::from(*byte)).sum()
}

/// Up to the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or GNU's binary for what they cannot hold. Nothing at all is zero.
fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        let start = if field[0] & 0x40 != 0 { -1 } else { 0 };
        let first = i128::from(field[0] & 0x7f) | if start < 0 { !0x7f } else { 0 };
        return Some(field[1..].iter().fold(first, |n, byte| n << 8 | i128::from(*byte)));
    }
    let digits = str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { i128::from_str_radix(digits, 8).ok() }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn encode_records(records: &Records) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        out.extend(format!("{length} {key}=").as_bytes());
        out.extend(value);
        out.push(b'\n');
    }
    out
}

pub(super) fn decode_records(mut bytes: &[u8]) -> Result<Records, String> {
    const BAD: &str = "a PAX record is not well formed";
    let mut records = Records::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
        let length = str::from_utf8(&bytes[..space]).ok().and_then(|n| n.parse::<usize>().ok());
        let length = length.filter(|n| *n > space + 1 && *n <= bytes.len()).ok_or(BAD)?;
        let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let key = str::from_utf8(&record[..equals]).map_err(|_| BAD)?;
        records.insert(key.to_owned(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(records)
}

fn show_time((seconds, nanos): (i64, u32)) -> String {
    if seconds < 0 && nanos > 0 {
        // -1.5 is two seconds before 1970 and a half later.
        let (whole, part) = (-(seconds + 1), 1_000_000_000 - nanos);
        return format!("-{whole}.{part:09}");
    }
    format!("{seconds}.{nanos:09}")
}

fn read_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = str::from_utf8(text).ok()?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{part:0<9}").get(..9)?.parse().ok()?;
    Some(match (sign, nanos) {
        (1, nanos) => (whole, nanos),
        (_, 0) => (-whole, 0),
        (_, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_the_nanosecond() {
        for time in [(0, 0), (5, 1), (-1, 0), (-2, 500_000_000), (-1, 1), (1 << 40, 999_999_999)] {
            assert_eq!(read_time(show_time(time).as_bytes()), Some(time));
        }
        assert_eq!(read_time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(read_time(b"-0.25"), Some((-1, 750_000_000)));
        for bad in [&b""[..], b"x", b"1.2.3", b"--1", b"99999999999999999999"] {
            assert_eq!(read_time(bad), None);
        }
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for n in [0, 1, 80, 88, 89, 90, 91, 980, 989, 990, 991] {
            let records = Records::from([("k".to_owned(), vec![b'\n'; n])]);
            let bytes = encode_records(&records);
            assert_eq!(decode_records(&bytes), Ok(records), "{n}");
        }
        for bad in [&b"5 a=b"[..], b"99 a=b\n", b"6 ab\n\n", b"0 a=b\n", b"x a=b\n", b"\xff"] {
            assert!(decode_records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\x00\x00\x01\x00"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"8"), None);
    }
}

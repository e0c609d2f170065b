//! Paths in JSON, also those that are not UTF-8: a string when they are, a list of bytes when not.
//!
//! For `#[serde(with = "kiln_stdx::path")]` on a `PathBuf`, and `path::list` on a `Vec<PathBuf>`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => to.serialize_str(text),
        None => path.as_os_str().as_bytes().serialize(to),
    }
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    struct TextOrBytes;
    impl<'de> Visitor<'de> for TextOrBytes {
        type Value = PathBuf;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path as a string or as a list of bytes")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<PathBuf, E> {
            Ok(PathBuf::from(text))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PathBuf, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = items.next_element()? {
                bytes.push(byte);
            }
            Ok(OsString::from_vec(bytes).into())
        }
    }
    from.deserialize_any(TextOrBytes)
}

/// The same for a list of paths.
pub mod list {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct One(#[serde(with = "super")] PathBuf);

    #[derive(Serialize)]
    #[serde(transparent)]
    struct Lent<'a>(#[serde(serialize_with = "super::serialize")] &'a Path);

    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| Lent(path)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<One>::deserialize(from)?.into_iter().map(|One(path)| path).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super::list")]
        many: Vec<PathBuf>,
    }

    #[test]
    fn a_path_is_text_when_it_can_be_and_survives_when_it_cannot() {
        let odd = PathBuf::from(OsString::from_vec(b"/a\xff".to_vec()));
        let both = Both { one: "/plain".into(), many: vec![odd, "ü".into()] };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(text, r#"{"one":"/plain","many":[[47,97,255],"ü"]}"#);
        assert_eq!(serde_json::from_str::<Both>(&text).unwrap(), both);
    }
}

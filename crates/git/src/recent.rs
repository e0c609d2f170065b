//! Small objects that were read last, by their ids.
//!
//! An id means the same bytes for ever, so nothing here becomes wrong. It lives as long as the process that has
//! read it: a mirror that was removed, or is idle, has nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::objects::Header;

/// Commits, and trees of folders that people look at.
const OBJECT_BYTES_MAX: u64 = 64 << 10;
/// Some hundred of them. When there are more, all go: who reads so many reads few of them twice.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    by_id: HashMap<String, Known>,
    n_bytes: u64,
}

#[derive(Debug)]
struct Known {
    kind: String,
    bytes: Arc<[u8]>,
}

impl Recent {
    /// What an object is: by its id, or as the commit that an id leads to.
    pub fn header(&self, name: &str) -> Option<Header> {
        let (id, wanted) = match name.strip_suffix("^{commit}") {
            Some(id) => (id, Some("commit")),
            None => (name, None),
        };
        let known = self.by_id.get(id)?;
        let fits = wanted.is_none_or(|wanted| known.kind == wanted);
        let (kind, n_bytes) = (known.kind.clone(), known.bytes.len() as u64);
        fits.then(|| Header { id: id.to_owned(), kind, n_bytes })
    }

    pub fn bytes(&self, id: &str, kind: &str) -> Option<Arc<[u8]>> {
        self.by_id.get(id).filter(|known| known.kind == kind).map(|known| known.bytes.clone())
    }

    pub fn may_keep(header: &Header) -> bool {
        header.n_bytes <= OBJECT_BYTES_MAX
    }

    pub fn keep(&mut self, header: &Header, bytes: &Arc<[u8]>) {
        if !Self::may_keep(header) || self.by_id.contains_key(&header.id) {
            return;
        }
        if self.n_bytes + header.n_bytes > BYTES_MAX {
            *self = Self::default();
        }
        self.n_bytes += header.n_bytes;
        let known = Known { kind: header.kind.clone(), bytes: bytes.clone() };
        self.by_id.insert(header.id.clone(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: &str, kind: &str, n_bytes: u64) -> Header {
        Header { id: id.to_owned(), kind: kind.to_owned(), n_bytes }
    }

    fn object(n_bytes: u64) -> Arc<[u8]> {
        vec![7; n_bytes as usize].into()
    }

    #[test]
    fn an_object_is_known_by_its_id_and_a_commit_also_as_one() {
        let mut recent = Recent::default();
        recent.keep(&header("c1", "commit", 3), &object(3));
        recent.keep(&header("t1", "tree", 2), &object(2));
        assert_eq!(recent.header("c1"), Some(header("c1", "commit", 3)));
        assert_eq!(recent.header("c1^{commit}"), Some(header("c1", "commit", 3)));
        assert_eq!(recent.header("t1^{commit}"), None);
        assert_eq!(recent.bytes("t1", "tree"), Some(object(2)));
        assert_eq!(recent.bytes("t1", "commit"), None);
    }

    #[test]
    fn it_stays_small() {
        let mut recent = Recent::default();
        recent.keep(&header("big", "tree", OBJECT_BYTES_MAX + 1), &object(OBJECT_BYTES_MAX + 1));
        assert_eq!(recent.header("big"), None);
        for n in 0..100 {
            recent.keep(&header(&n.to_string(), "tree", 60_000), &object(60_000));
            assert!(recent.n_bytes <= BYTES_MAX);
        }
        assert!(recent.header("99").is_some());
        assert_eq!(recent.header("0"), None);
    }
}

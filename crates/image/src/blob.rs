//! Bytes that are checked against their digest, and layers on their way from a stream to the store.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_model::layer::Digest;
use sha2::{Digest as _, Sha256};

use crate::ImageError;
use crate::images::LayerStore;

/// The digest of bytes.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Bytes that are what they were promised to be.
pub(crate) fn checked(
    name: &str,
    bytes: Vec<u8>,
    promised: &Digest,
) -> Result<Vec<u8>, ImageError> {
    let found = digest(&bytes);
    if found == *promised {
        return Ok(bytes);
    }
    Err(ImageError::damaged(
        name,
        format!("what came as sha256:{promised} has the digest sha256:{found}"),
    ))
}

/// Decompresses a layer, checks it and unpacks it.
///
/// What is checked is the archive, against the digest in the configuration, which was itself checked
/// against the name that led to it. That says more than the digest of the compressed bytes. Nothing is
/// kept of a wrong one: the store takes a layer over only when its archive was read to the end.
pub(crate) fn unpack(
    name: &str,
    diff_id: &Digest,
    mut from: impl Read + Send,
    budget: &Budget,
    store: &dyn LayerStore,
) -> Result<(), ImageError> {
    let trouble = |why: String| ImageError::Unpack {
        name: name.to_owned(),
        layer: format!("sha256:{diff_id}"),
        why,
    };
    let archive = decompressed(&mut from).map_err(|cause| trouble(cause.to_string()))?;
    let mut archive = Whole { inner: archive, hash: Sha256::new(), promised: diff_id, budget };
    store.unpack(diff_id, &mut archive).map_err(trouble)
}

/// By its first bytes: what a manifest says of the compression is sometimes wrong.
fn decompressed<'a>(from: &'a mut (dyn Read + Send)) -> io::Result<Box<dyn Read + Send + 'a>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut from = BufReader::with_capacity(256 << 10, from);
    let mut head = [0; 4];
    let mut n = 0;
    while n < head.len() {
        match from.read(&mut head[n..])? {
            0 => break,
            read => n += read,
        }
    }
    let head = head[..n].to_vec();
    let whole = io::Cursor::new(head.clone()).chain(from);
    if head.starts_with(&GZIP) {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)));
    }
    if head.starts_with(&ZSTD) {
        return Ok(Box::new(zstd::Decoder::new(whole)?));
    }
    Ok(Box::new(whole))
}

/// An archive whose end is an error when it is not the archive that was promised. So whoever unpacks it
/// fails before the layer is taken over.
struct Whole<'a, R> {
    inner: R,
    hash: Sha256,
    promised: &'a Digest,
    budget: &'a Budget,
}

/// What the layers of one image may still unpack to.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: Arc<AtomicU64>,
    whole: u64,
}

impl Budget {
    pub fn new(n_bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(n_bytes)), whole: n_bytes }
    }

    fn spend(&self, n_bytes: u64) -> io::Result<()> {
        let spend = |left: u64| left.checked_sub(n_bytes);
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map(drop).map_err(|_| {
            let whole = kiln_stdx::bytes::show(self.whole);
            io::Error::other(format!(
                "the image unpacks to more than {whole}; `image_max` in `[registries]` of kiln.toml \
                 allows more"
            ))
        })
    }
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        if n > 0 || into.is_empty() {
            self.budget.spend(n as u64)?;
            self.hash.update(&into[..n]);
            return Ok(n);
        }
        let found = Digest::from_bytes(self.hash.clone().finalize().into());
        if found == *self.promised {
            return Ok(0);
        }
        let why = format!("its archive has the digest sha256:{found}, which was not promised");
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<u8>>);

    impl LayerStore for Kept {
        fn has(&self, _: &Digest) -> bool {
            false
        }
        fn unpack(&self, _: &Digest, archive: &mut (dyn Read + Send)) -> Result<(), String> {
            let mut kept = Vec::new();
            archive.read_to_end(&mut kept).map_err(|cause| cause.to_string())?;
            *self.0.lock().unwrap() = kept;
            Ok(())
        }
    }

    #[test]
    fn a_layer_that_unpacks_to_too_much_is_refused() {
        let plain = vec![0; 3_000_000];
        let small = zstd::encode_all(&plain[..], 1).unwrap();
        let unpack = |budget| unpack("i", &digest(&plain), &small[..], &budget, &Kept::default());
        unpack(Budget::new(3_000_000)).unwrap();
        let refused = unpack(Budget::new(2_999_999)).unwrap_err().to_string();
        assert!(refused.contains("unpacks to more than 3.0 MB"), "{refused}");
    }

    #[test]
    fn a_layer_is_taken_over_however_it_is_compressed_and_only_when_it_is_the_right_one() {
        let plain = b"an archive".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let forms =
            [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()];
        for form in &forms {
            let (kept, budget) = (Kept::default(), Budget::new(1 << 20));
            unpack("i", &digest(&plain), &form[..], &budget, &kept).unwrap();
            assert_eq!(*kept.0.lock().unwrap(), plain);
            let wrong =
                unpack("i", &digest(b"other"), &form[..], &budget, &Kept::default()).unwrap_err();
            assert!(wrong.to_string().contains("not promised"), "{wrong}");
            let cut =
                unpack("i", &digest(&plain), &form[..form.len() / 2], &budget, &Kept::default());
            assert!(cut.is_err());
        }
    }
}

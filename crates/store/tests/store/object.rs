//! Objects: named by content, whole or not there.

use std::io::{self, ErrorKind, Read};

use kiln_model::layer::Digest;
use kiln_store::object::Objects;

#[test]
fn an_object_is_found_by_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::new(&folder.path().join("objects"));
    let (digest, n_bytes) = objects.put(&b"abc"[..]).unwrap();
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((digest.as_str(), n_bytes), (known, 3));
    assert_eq!(objects.path(&digest), objects.root().join("ba").join(&known[2..]));
    let mut text = String::new();
    objects.open(&digest).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
    // The same content again is kept once.
    assert_eq!(objects.put(&b"abc"[..]).unwrap(), (digest.clone(), 3));
    assert!(objects.remove(&digest).unwrap());
    assert!(!objects.remove(&digest).unwrap());
    assert_eq!(objects.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn many_who_put_the_same_content_at_once_agree() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::new(folder.path());
    let content = vec![7; 1 << 20];
    let put = || objects.put(&content[..]).unwrap();
    let all: Vec<(Digest, u64)> = std::thread::scope(|scope| {
        let putting: Vec<_> = (0..8).map(|_| scope.spawn(put)).collect();
        putting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| *one == all[0] && one.1 == 1 << 20));
    assert_eq!(std::fs::read(objects.path(&all[0].0)).unwrap(), content);
    // One folder, with one file, and nothing temporary.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_breaks_off_is_not_kept() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::ConnectionReset.into())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let objects = Objects::new(folder.path());
    let failed = objects.put(b"half"[..].chain(Broken)).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

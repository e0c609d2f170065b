//! `kiln.db` and its folder: what is refused, and how.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kiln_store::Store;

use crate::place::Place;
use crate::sample;

#[tokio::test]
async fn a_data_folder_has_one_server() {
    let place = Place::sqlite();
    let data = place.folder.path();
    let first = Store::open(data, None, true).await.unwrap();
    let refused = Store::open(data, None, true).await.unwrap_err().to_string();
    let expected = format!(
        "data folder `{}` is in use by another kiln server (pid {}); stop it, or give this one \
         another folder with --data",
        data.display(),
        std::process::id()
    );
    assert_eq!(refused, expected);
    // `kiln run` beside a server is welcome.
    sample::project(&place.open().await, "a").await;
    drop(first);
    Store::open(data, None, true).await.unwrap();
}

/// Folding the journal in at every end, and making it anew at every beginning, was half of what
/// `kiln run` waited for the disk.
#[tokio::test]
async fn processes_that_come_and_go_leave_the_journal_to_the_next_one() {
    let place = Place::sqlite();
    let data = place.folder.path();
    let journal = data.join("kiln.db-wal");
    let store = Store::open(data, None, false).await.unwrap();
    sample::project(&store, "a").await;
    drop(store);
    assert!(fs::metadata(&journal).unwrap().len() > 0);
    let store = Store::open(data, None, true).await.unwrap();
    assert_eq!(store.projects(0).await.unwrap().len(), 1);
    drop(store);
    assert!(!journal.exists());
}

#[tokio::test]
async fn a_new_data_folder_is_private() {
    let place = Place::sqlite();
    let data = place.folder.path().join("x/y");
    let _store = Store::open(&data, None, false).await.unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("kiln.db")), 0o600);
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_refused() {
    let place = Place::sqlite();
    let data = place.folder.path().join("file");
    fs::write(&data, "x").unwrap();
    let refused = Store::open(&data, None, true).await.unwrap_err().to_string();
    let name = data.display();
    assert_eq!(refused, format!("`{name}` is a file; the data folder must be a folder"));
    let below = data.join("below");
    let refused = Store::open(&below, None, true).await.unwrap_err().to_string();
    let expected = format!(
        "cannot create the data folder `{}`: Not a directory (os error 20)",
        below.display()
    );
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn a_data_folder_without_write_permission_is_refused() {
    // Nobody can make files in /proc, root neither.
    let data = std::path::Path::new("/proc/self");
    for exclusive in [true, false] {
        let refused = Store::open(data, None, exclusive).await.unwrap_err().to_string();
        assert!(refused.starts_with("cannot "), "{refused}");
        assert!(refused.contains("/proc/self/kiln."), "{refused}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Place::sqlite();
    let file = place.folder.path().join("kiln.db");
    let content = "this is a text\n".repeat(1000);
    fs::write(&file, &content).unwrap();
    let expected = format!(
        "`{}` is not a SQLite database; move it away, or choose another data folder",
        file.display()
    );
    assert_eq!(place.refusal().await, expected);
    assert_eq!(fs::read_to_string(&file).unwrap(), content);
}

#[tokio::test]
async fn the_database_of_another_program_is_refused_and_left_alone() {
    let place = Place::sqlite();
    let file = place.folder.path().join("kiln.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE run (x)").unwrap();
    drop(other);
    let before = fs::read(&file).unwrap();
    let expected = format!(
        "`{}` is the database of another program; choose another data folder",
        file.display()
    );
    assert_eq!(place.refusal().await, expected);
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_folder_in_place_of_the_database_is_refused() {
    let place = Place::sqlite();
    fs::create_dir(place.folder.path().join("kiln.db")).unwrap();
    let expected = format!(
        "cannot open `{}/kiln.db`: it must be a file, in a folder that can be written to",
        place.folder.path().display()
    );
    assert_eq!(place.refusal().await, expected);
}

#[tokio::test]
async fn a_damaged_database_is_named_as_such() {
    let place = Place::sqlite();
    // As a server, which leaves everything in the one file that is damaged here.
    let store = Store::open(place.folder.path(), None, true).await.unwrap();
    let project = sample::project(&store, "a").await.id;
    for _ in 0..50 {
        sample::run(&store, project).await;
    }
    drop(store);
    let file = place.folder.path().join("kiln.db");
    let mut bytes = fs::read(&file).unwrap();
    // All pages after the first, which holds the schema's beginning.
    bytes[4096..].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let refused = match Store::open(place.folder.path(), None, false).await {
        Err(refused) => refused,
        Ok(store) => store.projects(9).await.unwrap_err(),
    };
    let refused = refused.to_string();
    assert!(refused.starts_with(&format!("`{}` is damaged (", file.display())), "{refused}");
    assert!(refused.contains("restore it from a backup"), "{refused}");
}

#[tokio::test]
async fn a_folder_with_an_odd_name_is_only_a_folder() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::sqlite();
    for name in [b"file:x?mode=memory&cache=shared".as_slice(), b"bytes \xff\xfe", b"$(touch x)"] {
        let data = place.folder.path().join(std::ffi::OsStr::from_bytes(name));
        sample::project(&Store::open(&data, None, true).await.unwrap(), "a").await;
        let store = Store::open(&data, None, true).await.unwrap();
        assert_eq!(store.projects(1).await.unwrap().len(), 1);
        assert!(data.join("kiln.db").exists());
    }
}

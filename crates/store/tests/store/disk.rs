//! A full disk: an error for everybody who wrote, and work goes on when there is room again.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use kiln_model::EventKind;
use kiln_stdx::process::command;
use kiln_store::{Append, Store};
use rustix::process::getuid;

use crate::{role, sample};

/// The file system lives in a mount namespace, which ends with the process: nothing is left behind.
#[test]
fn a_full_disk_is_an_error_and_room_brings_the_store_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut unshare = command("unshare");
    unshare.arg("--mount");
    if !getuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(std::env::current_exe().unwrap());
    let mut child = role::within(unshare, "full disk");
    let done = child.env("KILN_DATA", folder.path()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("all was seen"), "{said}");
}

#[tokio::main]
pub async fn on_a_small_disk() {
    let folder = std::env::var("KILN_DATA").unwrap();
    let mut mount = command("mount");
    mount.args(["-t", "tmpfs", "-o", "size=2m", "none", &folder]);
    kiln_stdx::process::output(&mut mount).unwrap();
    let data = Path::new(&folder).join("data");
    let store = Store::open(&data, None, false).await.unwrap();
    let project = sample::project(&store, "a").await.id;
    let run = sample::run(&store, project).await.id;

    let filler = Path::new(&folder).join("filler");
    let mut full = std::fs::File::create(&filler).unwrap();
    while full.write_all(&[1; 4096]).is_ok() {}
    let big = |seq| {
        let by = "x".repeat(100_000);
        let events = vec![sample::event(seq, EventKind::CancelAsked { by })];
        Append { events, ..sample::append(run, seq) }
    };
    // Whoever writes is told, and nothing of it is there. (The later ones may meet a full disk, or
    // find that the first is missing.)
    let answers: Vec<_> = (2..6).map(|seq| store.append(big(seq))).collect();
    for answer in answers {
        assert!(answer.await.is_err());
    }
    let error = store.append(big(2)).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot write to `{}/kiln.db`: its disk is full; `kiln gc` makes room, or free some space, and try again",
            data.display()
        )
    );
    assert_eq!(store.run(run).await.unwrap().last_seq, 1);
    assert_eq!(store.events(run, 0).await.unwrap().len(), 1);

    std::fs::remove_file(&filler).unwrap();
    drop(full);
    for seq in 2..6 {
        store.append(big(seq)).await.unwrap();
    }
    drop(store);
    let store = Store::open(&data, None, false).await.unwrap();
    assert_eq!(store.events(run, 0).await.unwrap().len(), 5);
    std::io::stdout().write_all(b"all was seen\n").unwrap();
}

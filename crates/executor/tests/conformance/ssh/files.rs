//! The workspace goes to another machine, and what was changed comes back.

use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_executor::{Session, SessionSpec};
use kiln_model::Exit;

use super::Far;
use crate::bench::{Bench, Case, sh, step, text};
use crate::cases;

pub fn cases() -> Vec<Case<Far>> {
    cases![
        files_go_there_and_changes_come_back,
        what_is_not_changed_is_not_written_here,
        what_was_moved_comes_back_from_where_it_is,
        outputs_come_back_after_each_step,
        nothing_is_left_there_at_the_end,
    ]
}

async fn files_go_there_and_changes_come_back(bench: Bench<Far>) {
    let work = bench.path("work");
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9 \n 'x' $y \\");
    let long = "n".repeat(200);
    for folder in ["kept", "gone/deep", "changed", &format!("{long}/{long}"), "turns"] {
        std::fs::create_dir_all(work.join(folder)).unwrap();
    }
    std::fs::write(work.join(odd), "odd").unwrap();
    std::fs::write(work.join(format!("{long}/{long}/{long}")), "long").unwrap();
    std::fs::write(work.join("gone/deep/file"), "x").unwrap();
    std::fs::write(work.join("changed/file"), "before").unwrap();
    std::fs::write(work.join("tool"), "#!/bin/sh\necho tool\n").unwrap();
    std::fs::set_permissions(work.join("tool"), Permissions::from_mode(0o755)).unwrap();
    symlink("changed/file", work.join("link")).unwrap();
    let big: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(work.join("big"), &big).unwrap();
    let mut session = bench.open().await;
    let script = format!(
        "set -e; ./tool; cat link; cat {long}/{long}/{long}; set -- *; echo $#; rm -r gone turns; \
         printf AFTER_ > changed/file; touch -r tool changed/file; echo file > turns; \
         ln -sfn elsewhere link; chmod 640 tool; mkdir -p new/empty; echo n > new/n; ln new/n new/same; \
         printf 'a\\nb' > \"$(printf 'new\\nline \\303\\251')\"; printf x | dd of=big bs=1 seek=5 conv=notrunc 2>/dev/null"
    );
    assert_eq!(step(&mut session, sh(&script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(text(&bench.log()), "tool\nbeforelong9\n");
    let read = |name: &str| std::fs::read_to_string(work.join(name)).unwrap();
    assert_eq!(read("changed/file"), "AFTER_");
    assert_eq!(
        (read("turns"), read("new/n"), read("new/same")),
        ("file\n".into(), "n\n".into(), "n\n".into())
    );
    assert!(!work.join("gone").exists());
    assert!(work.join("new/empty").is_dir() && work.join("kept").is_dir());
    assert_eq!(std::fs::read_link(work.join("link")).unwrap(), Path::new("elsewhere"));
    assert_eq!(work.join("tool").metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_to_string(work.join(odd)).unwrap(), "odd");
    assert_eq!(read("new\nline \u{e9}"), "a\nb");
    let mut changed = big;
    changed[5] = b'x';
    assert!(std::fs::read(work.join("big")).unwrap() == changed);
    let left = std::fs::read_dir(&work).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name() == ".kiln-fetched"));
}

async fn what_is_not_changed_is_not_written_here(bench: Bench<Far>) {
    std::fs::create_dir(bench.path("work/folder")).unwrap();
    for name in ["work/a", "work/folder/b"] {
        std::fs::write(bench.path(name), "same").unwrap();
    }
    let inode = |name: &str| {
        let meta = bench.path(name).metadata().unwrap();
        (meta.ino(), meta.mtime(), meta.ctime(), meta.ctime_nsec())
    };
    let before = ["work/a", "work/folder/b"].map(inode);
    let mut session = bench.open().await;
    // Written there with what it had.
    let script = "cp -p a b; cat b > a; rm b; touch a; cat folder/b";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(["work/a", "work/folder/b"].map(inode), before);
}

/// A folder that moves takes along files that have not changed by it.
async fn what_was_moved_comes_back_from_where_it_is(bench: Bench<Far>) {
    for (name, content) in [("a/in/f", "of a"), ("b/in/f", "of b"), ("c\nd/f", "of c"), ("e", "e")]
    {
        let path = bench.path("work").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let mut session = bench.open().await;
    let script = "mv a x; mv b a; mv x b; mkdir new; mv e new/e; mv \"$(printf 'c\\nd')\" \"$(printf 'c\\ne')\"";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    let read = |name: &str| std::fs::read_to_string(bench.path("work").join(name)).unwrap();
    let now = ["a/in/f", "b/in/f", "c\ne/f", "new/e"].map(read);
    assert_eq!(now, ["of b", "of a", "of c", "e"]);
    assert!(!bench.path("work/c\nd").exists() && !bench.path("work/e").exists());
}

async fn outputs_come_back_after_each_step(bench: Bench<Far>) {
    let wanted = |spec: &mut SessionSpec| {
        spec.env.insert("WANTS_OUT".to_owned(), String::new());
    };
    let mut session = bench.open_with(wanted).await;
    assert_eq!(step(&mut session, sh("echo a=1 >> $OUT")).await, Ok(Exit::SUCCESS));
    assert_eq!(std::fs::read_to_string(bench.path("attempt/output")).unwrap(), "a=1\n");
    let more = "i=0; while [ $i -lt 5000 ]; do echo key$i=value; i=$((i+1)); done >> $OUT; yes | head -n 9999";
    assert_eq!(step(&mut session, sh(more)).await, Ok(Exit::SUCCESS));
    let output = std::fs::read_to_string(bench.path("attempt/output")).unwrap();
    assert_eq!((output.lines().count(), output.lines().last()), (5001, Some("key4999=value")));
    session.close().await.unwrap();
}

async fn nothing_is_left_there_at_the_end(bench: Bench<Far>) {
    let mut session = bench.open().await;
    let script = "mkdir -p locked/in; touch locked/in/file; chmod 500 locked/in locked";
    assert_eq!(step(&mut session, sh(script)).await, Ok(Exit::SUCCESS));
    session.close().await.unwrap();
    assert_eq!(bench.executor.folders(), Vec::<PathBuf>::new());
    assert!(!bench.path("attempt/ssh").exists());
}

//! What jobs find of earlier ones, at paths that are kept.

use std::fs;
use std::path::PathBuf;

use kiln_model::layer::LayerId;
use kiln_model::plan::CacheRule;
use kiln_model::{ProjectId, RunNumber};
use kiln_stdx::Timestamp;
use kiln_workspace::{Base, CacheWish};

use crate::lab::Lab;

/// Job number `number` of a project, on `main`.
fn wish(number: i64, paths: &[&str]) -> CacheWish {
    let rule = |path: &&str| CacheRule { path: (*path).to_owned(), key: None };
    CacheWish {
        project: ProjectId(1),
        number: RunNumber(number),
        rules: paths.iter().map(rule).collect(),
        read: vec!["branch/main".to_owned()],
        write: Some("branch/main".to_owned()),
        home: None,
        below: Vec::new(),
        goes_on: false,
        taken: Vec::new(),
    }
}

/// What a job printed, what was said of its caches, and its layer.
struct Ran {
    printed: String,
    lines: String,
    layer: Option<LayerId>,
}

/// A job from its beginning to its end, as an agent runs it. It succeeds.
async fn ran(lab: &Lab, wish: &CacheWish, base: &Base, layers: &[&LayerId], script: &str) -> Ran {
    let layers: Vec<LayerId> = layers.iter().copied().cloned().collect();
    let attempt = lab.next_attempt();
    let all = &lab.workspaces;
    let _using = all.using().unwrap();
    let caches = all.find_caches(wish, base, &layers, &[]);
    let mut prepared = all.prepare(attempt, "place", base, &layers, &caches.own).unwrap();
    all.lay_caches(attempt, caches, &mut prepared).unwrap();
    let lines = prepared.lines.join("\n");
    let printed = lab.run_in(attempt, prepared, script).await;
    let taken = all.take_caches(attempt).unwrap();
    let layer = all.seal(attempt).unwrap();
    let unkept = all.save_caches(taken, layer.as_ref(), Timestamp::EPOCH);
    assert_eq!(unkept, [""; 0]);
    let scope = wish.write.clone().unwrap_or_default();
    all.tidy_caches(wish.project, &scope, &wish.rules).unwrap();
    Ran { printed, lines, layer }
}

async fn printed(lab: &Lab, number: i64, base: &Base, script: &str) -> String {
    ran(lab, &wish(number, &["target"]), base, &[], script).await.printed
}

const LIST: &str = "find target 2>/dev/null | sort | tr '\\n' ' '";

pub async fn a_job_finds_what_an_earlier_one_left(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    let first =
        "test ! -e target; mkdir -p target/sub; echo 1 > target/a; ln target/a target/sub/l;
                 echo b > target/sub/b; chmod 640 target/a; ln -s a target/link; echo x > other";
    assert_eq!(printed(&lab, 1, &base, first).await, "");
    let second = "test ! -e other; cat target/a target/link target/sub/b; stat -c %a target/a;
                  echo 2 > target/a; rm target/sub/b; mkdir target/new; echo n > target/new/n";
    let seen = ran(&lab, &wish(2, &["target"]), &base, &[], second).await;
    assert_eq!(seen.printed, "1\n1\nb\n640\n");
    assert_eq!(seen.lines, "cache target (main, 6 B, from #1)");
    let third =
        format!("cat target/a; {LIST}; rm -r target/new; mkdir target/new; echo m > target/new/m");
    let all = "target target/a target/link target/new target/new/n target/sub target/sub/l ";
    assert_eq!(printed(&lab, 3, &base, &third).await, format!("2\n{all}"));
    assert_eq!(printed(&lab, 4, &base, "ls target/new; cat file").await, "m\ns\n");
}

pub async fn a_cache_that_nobody_changed_is_not_kept_again(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo 1 > target/a").await;
    printed(&lab, 2, &base, "cat target/a; echo y > beside").await;
    let kept = lab.workspaces.caches().unwrap();
    assert_eq!(kept.iter().map(|cache| cache.run.0).collect::<Vec<_>>(), [1]);
    printed(&lab, 3, &base, "echo more > target/b").await;
    assert_eq!(lab.workspaces.caches().unwrap()[0].run.0, 3);
}

pub async fn a_cache_that_was_removed_is_forgotten(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo 1 > target/a").await;
    printed(&lab, 2, &base, "rm -r target").await;
    let seen = ran(&lab, &wish(3, &["target"]), &base, &[], "test ! -e target").await;
    assert_eq!(seen.lines, "cache target (nothing kept yet)");
}

pub async fn a_child_sees_what_its_parent_left_whatever_is_kept_since(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo old > target/old").await;
    let parent = "echo mine > target/mine; rm target/old";
    let parent = ran(&lab, &wish(2, &["target"]), &base, &[], parent).await.layer.unwrap();
    // Another run, in between.
    printed(&lab, 3, &base, "echo other > target/other; echo theirs > target/mine").await;
    let mut child = wish(2, &["target"]);
    child.below = child.rules.clone();
    let script = format!("{LIST}; cat target/mine; echo c > target/child");
    let seen = ran(&lab, &child, &base, &[&parent], &script).await;
    assert_eq!(seen.printed, "target target/mine mine\n");
    assert_eq!(seen.lines, "cache target (as its needs left it)");
    // A child without a cache sees it too, and what the child has kept is all of it.
    let (bare, _) = lab.job(&base, &[&parent, &seen.layer.unwrap()], LIST).await;
    assert_eq!(bare, "target target/child target/mine ");
    assert_eq!(printed(&lab, 4, &base, LIST).await, "target target/child target/mine ");
}

pub async fn what_a_need_left_lies_over_a_cache(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    let (_, need) = lab.job(&base, &[], "mkdir target; echo 1 > target/made").await;
    let build = "cat target/made; echo built from $(cat target/made) > target/built";
    let first = ran(&lab, &wish(1, &["target"]), &base, &[&need.unwrap()], build).await;
    assert_eq!(first.printed, "1\n");
    let (_, need) = lab.job(&base, &[], "mkdir target; echo 2 > target/made").await;
    let need = need.unwrap();
    let second = "cat target/made target/built; echo built again > target/built";
    let second = ran(&lab, &wish(2, &["target"]), &base, &[&need], second).await;
    assert_eq!(second.printed, "2\nbuilt from 1\n");
    let (child, _) =
        lab.job(&base, &[&need, &second.layer.unwrap()], "cat target/made target/built").await;
    assert_eq!(child, "2\nbuilt again\n");
    assert_eq!(printed(&lab, 3, &base, "cat target/made").await, "2\n");
}

pub async fn a_cache_brings_back_nothing_beside_its_path(lab: Lab) {
    let base =
        lab.source("a", "mkdir -p deep; echo 1 > deep/file; echo 1 > deep/gone; chmod 700 deep");
    let deep = wish(1, &["deep/er/target"]);
    ran(
        &lab,
        &deep,
        &base,
        &[],
        "mkdir -p deep/er/target; echo c > deep/er/target/c; rm deep/file",
    )
    .await;
    let base = lab.source("b", "mkdir deep; echo 2 > deep/file");
    let seen =
        ran(&lab, &deep, &base, &[], "cat deep/file deep/er/target/c; ls deep deep/er").await;
    assert_eq!(seen.printed, "2\nc\ndeep:\ner\nfile\n\ndeep/er:\ntarget\n");
}

pub async fn a_cache_gives_way_to_a_file_of_the_source(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo 1 > target/a").await;
    let base = lab.source("b", "ln -s /etc target");
    let seen = ran(&lab, &wish(2, &["target"]), &base, &[], "readlink target").await;
    assert_eq!(
        (&*seen.printed, &*seen.lines),
        ("/etc\n", "cache target: not used: `target` is no folder here")
    );
    assert_eq!(lab.workspaces.caches().unwrap()[0].run.0, 1);
}

pub async fn many_small_changes_are_merged(lab: Lab) {
    let base = lab.source("a", "mkdir target; echo s > target/s");
    for n in 1..=30 {
        let script =
            format!("echo {n} > target/f{n}; echo {n} > target/last; rm -f target/f{}", n - 5);
        printed(&lab, n, &base, &script).await;
    }
    let found =
        "target target/f26 target/f27 target/f28 target/f29 target/f30 target/last target/s ";
    assert_eq!(printed(&lab, 31, &base, LIST).await, found);
    let name = lab.workspaces.caches().unwrap()[0].name.clone();
    assert!(lab.workspaces.cache_pieces_of(&name).unwrap().len() <= 12);
}

pub async fn a_scope_is_read_by_those_who_may(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo trusted > target/a").await;
    let mut fork = wish(2, &["target"]);
    fork.read = vec!["pull/12".to_owned(), "branch/main".to_owned()];
    fork.write = Some("pull/12".to_owned());
    let bad = "cat target/a; echo poisoned > target/a";
    assert_eq!(ran(&lab, &fork, &base, &[], bad).await.printed, "trusted\n");
    assert_eq!(printed(&lab, 3, &base, "cat target/a").await, "trusted\n");
    let again = ran(&lab, &fork, &base, &[], "cat target/a").await;
    assert_eq!(again.printed, "poisoned\n");
    assert!(again.lines.starts_with("cache target (pull/12, "), "{}", again.lines);
    // Another project, another key, and one that reads nothing.
    let other = CacheWish { project: ProjectId(2), ..wish(4, &["target"]) };
    let mut keyed = wish(4, &["target"]);
    keyed.rules[0].key = Some("v2".to_owned());
    let anew = CacheWish { read: Vec::new(), ..wish(4, &["target"]) };
    for wish in [other, keyed, anew] {
        ran(&lab, &wish, &base, &[], "test ! -e target; mkdir target; echo new > target/a").await;
    }
    assert_eq!(printed(&lab, 5, &base, "cat target/a").await, "new\n");
}

pub async fn a_damaged_cache_is_one_that_is_not_there(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo 1 > target/a").await;
    let all = &lab.workspaces;
    fs::remove_dir_all(&all.cache_pieces().unwrap()[0]).unwrap();
    let seen = ran(&lab, &wish(2, &["target"]), &base, &[], "test ! -e target").await;
    assert_eq!(seen.lines, "cache target (main was damaged: some of its files are gone)");
    let file = |name: &str| lab.path("layers/caches").join(format!("{name}.json"));
    printed(&lab, 3, &base, "mkdir target; echo 3 > target/a").await;
    fs::write(file(&all.caches().unwrap()[0].name), "{\"half").unwrap();
    let seen =
        ran(&lab, &wish(4, &["target"]), &base, &[], "mkdir target; echo 4 > target/a").await;
    assert!(
        seen.lines.starts_with("cache target (main was damaged: cannot read"),
        "{}",
        seen.lines
    );
    assert_eq!(printed(&lab, 5, &base, "cat target/a").await, "4\n");
}

pub async fn the_last_of_two_savers_wins_whole(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    printed(&lab, 1, &base, "mkdir target; echo 0 > target/both").await;
    let all = &lab.workspaces;
    let mut open = Vec::new();
    for n in [2, 3] {
        let attempt = lab.next_attempt();
        let caches = all.find_caches(&wish(n, &["target"]), &base, &[], &[]);
        let mut prepared = all.prepare(attempt, "place", &base, &[], &caches.own).unwrap();
        all.lay_caches(attempt, caches, &mut prepared).unwrap();
        open.push((n, attempt, prepared));
    }
    for (n, attempt, prepared) in open {
        let script = format!("echo {n} > target/only-{n}; echo {n} > target/both");
        lab.run_in(attempt, prepared, &script).await;
        let taken = all.take_caches(attempt).unwrap();
        let layer = all.seal(attempt).unwrap();
        assert_eq!(all.save_caches(taken, layer.as_ref(), Timestamp::EPOCH), [""; 0]);
    }
    let seen = printed(&lab, 4, &base, &format!("cat target/both; {LIST}")).await;
    assert_eq!(seen, "3\ntarget target/both target/only-3 ");
}

pub async fn a_folder_outside_the_workspace_is_found_again(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    let home = lab.path("home");
    fs::create_dir_all(home.join("real")).unwrap();
    fs::write(home.join("real/mine"), "mine\n").unwrap();
    let with_home =
        |n| CacheWish { home: Some(home.clone()), ..wish(n, &["~/real", "~/new/deep"]) };
    let at = home.display();
    let script = format!(
        "cat {at}/real/mine; echo theirs > {at}/real/mine; echo 1 > {at}/real/file; echo d > {at}/new/deep/d"
    );
    let mut made = with_home(1);
    if !lab.workspaces.driver().mounts() {
        let seen = ran(&lab, &made, &base, &[], "true").await;
        let line = "not used: this machine cannot mount it, and the job gets the real folder";
        assert_eq!(
            seen.lines,
            format!(
                "cache ~/real (nothing kept yet)\ncache ~/new/deep (nothing kept yet)\ncache ~/real: {line}\ncache ~/new/deep: {line}"
            )
        );
        return;
    }
    assert_eq!(ran(&lab, &made, &base, &[], &script).await.printed, "mine\n");
    assert_eq!(fs::read_to_string(home.join("real/mine")).unwrap(), "mine\n");
    assert!(!home.join("real/file").exists() && !home.join("new/deep/d").exists());
    // What the user adds is seen; what was changed stays changed.
    fs::write(home.join("real/added"), "added\n").unwrap();
    let script = format!("cd {at}; cat real/mine real/file real/added new/deep/d; rm real/file");
    let seen = ran(&lab, &with_home(2), &base, &[], &script).await;
    assert_eq!(seen.printed, "theirs\n1\nadded\nd\n");
    assert_eq!(
        seen.lines,
        "cache ~/real (main, 9 B, from #1)\ncache ~/new/deep (main, 2 B, from #1)"
    );
    made.number = RunNumber(3);
    assert_eq!(
        ran(&lab, &made, &base, &[], &format!("ls {at}/real")).await.printed,
        "added\nmine\n"
    );
}

pub async fn a_folder_of_kilns_own_is_no_cache(lab: Lab) {
    let base = lab.source("a", "echo s > file");
    let home = lab.path("home");
    fs::create_dir_all(home.join("dir")).unwrap();
    fs::write(home.join("file"), "").unwrap();
    std::os::unix::fs::symlink("dir", home.join("link")).unwrap();
    std::os::unix::fs::symlink("/proc", home.join("kernel")).unwrap();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (whole, layers) = (text(lab.path("")), text(lab.path("layers/sealed")));
    let paths = [whole.trim_end_matches('/'), &layers, "~/file", "~/dir", "~/link", "~/kernel/x"];
    let wish = CacheWish { home: Some(home), ..wish(1, &paths) };
    let caches = lab.workspaces.find_caches(&wish, &base, &[], &[]);
    let said: Vec<_> = caches.lines.iter().map(|line| line.split(": ").last().unwrap()).collect();
    let file = "outside the workspace a cache is a folder, and this is a file; name the folder that it lies in";
    assert_eq!(
        said,
        [
            "kiln's own files lie there",
            "kiln's own files lie there",
            file,
            "cache ~/dir (nothing kept yet)",
            "it is the same place as `~/dir`",
            "that place is the kernel's",
        ]
    );
}

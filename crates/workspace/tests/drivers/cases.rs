//! The table.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use kiln_model::layer::LayerId;
use kiln_workspace::{Base, WorkspaceError, Workspaces};

use crate::boundary::*;
use crate::caches::*;
use crate::collide::*;
use crate::digest::*;
use crate::forms::*;
use crate::history::{
    a_full_source_takes_the_place_of_a_chain, a_source_made_from_another_is_as_git_checks_it_out,
    the_history_of_a_real_repository_is_as_git_checks_it_out,
};
use crate::lab::{Lab, shell_in};
use crate::packing::*;

pub type Case = fn(Lab) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! table {
    ($($name:ident),+ $(,)?) => {
        vec![$((stringify!($name), (|lab| Box::pin($name(lab))) as Case)),+]
    };
}

pub fn cases() -> Vec<(&'static str, Case)> {
    table![
        a_job_sees_its_source,
        a_child_sees_what_its_need_left,
        every_kind_of_change_is_seen_by_the_child,
        a_job_that_writes_nothing_leaves_no_layer,
        reading_is_not_writing,
        a_rewrite_of_the_same_size_is_a_change,
        later_layers_lie_over_earlier_ones,
        a_deletion_hides_the_earlier_layer,
        a_folder_made_anew_hides_what_was_in_it,
        a_layer_named_twice_lies_where_it_was_first,
        siblings_do_not_see_one_another,
        a_layer_does_not_change_when_a_child_writes,
        modes_links_and_times_are_kept,
        hard_links_stay_one_file,
        names_that_are_not_utf_8_are_kept,
        a_long_chain_is_flattened,
        a_working_tree_is_seen_but_never_written,
        a_data_folder_inside_the_working_tree_is_not_seen,
        a_hidden_path_may_be_made_by_the_job,
        a_link_in_the_place_of_a_folder_is_not_followed,
        a_tree_of_several_owners_is_copied_by_one_user,
        a_layer_that_is_missing_is_named,
        a_second_try_begins_anew,
        a_source_is_made_once_and_whole,
        two_makers_at_once_make_one_source,
        what_a_crash_left_is_removed,
        odd_names_are_refused,
        a_tree_that_its_owner_may_not_write_is_removed,
        a_source_made_from_another_is_as_git_checks_it_out,
        the_history_of_a_real_repository_is_as_git_checks_it_out,
        a_full_source_takes_the_place_of_a_chain,
        a_job_finds_what_an_earlier_one_left,
        a_cache_that_nobody_changed_is_not_kept_again,
        a_cache_that_was_removed_is_forgotten,
        a_child_sees_what_its_parent_left_whatever_is_kept_since,
        what_a_need_left_lies_over_a_cache,
        a_cache_brings_back_nothing_beside_its_path,
        a_cache_gives_way_to_a_file_of_the_source,
        many_small_changes_are_merged,
        a_scope_is_read_by_those_who_may,
        a_damaged_cache_is_one_that_is_not_there,
        the_last_of_two_savers_wins_whole,
        a_folder_outside_the_workspace_is_found_again,
        a_folder_of_kilns_own_is_no_cache,
        a_boundary_is_what_its_step_found,
        an_attempt_goes_on_from_another,
        a_job_that_only_looks_has_boundaries_of_nothing,
        a_crash_between_two_steps_loses_no_file,
        a_lost_piece_is_missed_by_all_that_stand_on_it,
        a_job_of_very_many_steps_keeps_them_all,
        a_path_that_two_layers_changed_differently_is_found,
        merging_and_agreeing_is_no_collision,
        a_deletion_collides_with_a_change,
        what_a_folder_made_anew_hides_is_a_collision,
        layers_that_have_met_do_not_collide_again,
        a_job_that_wants_no_files_has_none_and_its_child_has_all,
        equal_changes_have_equal_digests,
        a_digest_is_of_content_alone,
        extended_attributes_count,
        a_kept_digest_is_not_taken_for_another_layers,
        a_layer_of_several_folders_has_the_digest_of_their_sum,
        a_packed_layer_is_the_same_layer_elsewhere,
        a_whole_view_is_packed_and_laid_out,
        an_archive_that_is_refused_leaves_the_layer_as_it_was,
        what_one_driver_left_another_shows,
        attributes_sockets_and_owners_are_seen_by_the_child,
        a_deep_tree_is_kept_and_removed,
        a_thousand_layers_are_one_view,
        the_layers_may_be_anywhere,
        a_folder_of_a_layer_below_can_be_moved,
        a_base_is_what_it_was_for_every_driver,
    ]
}

/// Prints every path with its kind and mode, and every file's text.
const SHOW: &str = "find . -mindepth 1 -printf '%P %y %m\\n' | sort; \
                    find . -type f | sort | xargs -r grep -H '' || true";

/// Names and texts of all files.
const FILES: &str = "find . -type f | sort | xargs -r grep -H '' || true";

async fn a_job_sees_its_source(lab: Lab) {
    let base = lab.source("t1", "echo one > a; mkdir d; echo two > d/b; chmod 755 a; chmod 700 d");
    let (shown, _) = lab.job(&base, &[], SHOW).await;
    assert_eq!(shown, "a f 755\nd d 700\nd/b f 644\n./a:one\n./d/b:two\n");
}

async fn a_child_sees_what_its_need_left(lab: Lab) {
    let base = lab.source("t1", "echo one > a; mkdir d; echo two > d/b");
    let (_, first) = lab.job(&base, &[], "echo three > d/c; rm a").await;
    let first = first.expect("it wrote");
    let (shown, second) = lab.job(&base, &[&first], &format!("{FILES}; echo 4 > e")).await;
    assert_eq!(shown, "./d/b:two\n./d/c:three\n");
    let (shown, _) = lab.job(&base, &[&first, &second.expect("it wrote")], FILES).await;
    assert_eq!(shown, "./d/b:two\n./d/c:three\n./e:4\n");
}

async fn every_kind_of_change_is_seen_by_the_child(lab: Lab) {
    let base = lab.source(
        "t1",
        "for n in keep change delete mode swap1 swap2 tofolder tolink; do echo $n > $n; done; \
         mkdir -p gone/deep anew tofile renamed dirmode; echo x > gone/deep/x; echo x > anew/x; \
         echo x > tofile/x; echo x > renamed/x; ln -s keep link; ln -s keep relink",
    );
    let change = "echo changed > change; rm delete; chmod 600 mode; mv swap1 t; mv swap2 swap1; \
                  mv t swap2; rm tofolder; mkdir tofolder; echo y > tofolder/y; ln -sf keep tolink; \
                  rm -r gone; rm -r anew; mkdir anew; echo y > anew/y; rm -r tofile; \
                  echo y > tofile; mv renamed moved; chmod 711 dirmode; rm link; \
                  ln -sfn change relink; mkdir -p new/empty; echo y > new/y; : > zero";
    let show = format!("{SHOW}; readlink relink tolink");
    let (inside, layer) = lab.job(&base, &[], &format!("{change}; {show}")).await;
    let (seen, nothing) = lab.job(&base, &[&layer.expect("it wrote")], &show).await;
    assert_eq!(seen, inside);
    assert_eq!(nothing, None);
    for line in ["anew/y f 644", "moved/x f 644", "mode f 600", "dirmode d 711", "new/empty d 755"]
    {
        assert!(seen.contains(&format!("{line}\n")), "{line} in {seen}");
    }
    for gone in ["anew/x", "gone", "delete", "renamed", "tofile/x", "\nlink "] {
        assert!(!seen.contains(gone), "{gone} not in {seen}");
    }
}

async fn a_job_that_writes_nothing_leaves_no_layer(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let mut layers = Vec::new();
    for _ in 0..5 {
        let (_, layer) = lab.job(&base, &layers.iter().collect::<Vec<_>>(), "cat a").await;
        layers.extend(layer);
    }
    assert_eq!(layers, []);
}

async fn reading_is_not_writing(lab: Lab) {
    let base = lab.source("t1", "mkdir d; echo one > d/a; touch -a -d 2001-01-01 d/a d");
    let (_, layer) =
        lab.job(&base, &[], "ls -lR > /dev/null; cat d/a; grep -r one . > /dev/null").await;
    assert_eq!(layer, None);
}

async fn a_rewrite_of_the_same_size_is_a_change(lab: Lab) {
    let base = lab.source("t1", "echo aaa > a; echo bbb > b; touch -d 2001-01-01 b");
    let script = "echo ccc > a; echo ddd > b; touch -d 2001-01-01 b";
    let (_, layer) = lab.job(&base, &[], script).await;
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], FILES).await;
    assert_eq!(seen, "./a:ccc\n./b:ddd\n");
}

async fn later_layers_lie_over_earlier_ones(lab: Lab) {
    let base = lab.source("t1", "echo base > a; mkdir d");
    let (_, one) = lab.job(&base, &[], "echo one > a; echo one > d/one; echo one > d/both").await;
    let (_, two) = lab.job(&base, &[], "echo two > a; echo two > d/two; echo two > d/both").await;
    let (one, two) = (one.expect("it wrote"), two.expect("it wrote"));
    let (seen, _) = lab.job(&base, &[&one, &two], FILES).await;
    assert_eq!(seen, "./a:two\n./d/both:two\n./d/one:one\n./d/two:two\n");
    let (seen, _) = lab.job(&base, &[&two, &one], FILES).await;
    assert_eq!(seen, "./a:one\n./d/both:one\n./d/one:one\n./d/two:two\n");
}

async fn a_deletion_hides_the_earlier_layer(lab: Lab) {
    let base = lab.source("t1", "echo base > a; mkdir d; echo base > d/x");
    let (_, one) = lab.job(&base, &[], "echo one > a; echo one > d/x; echo one > d/new").await;
    let (_, two) = lab.job(&base, &[], "rm a; rm -r d").await;
    let (one, two) = (one.expect("it wrote"), two.expect("it wrote"));
    let (seen, _) = lab.job(&base, &[&one, &two], FILES).await;
    assert_eq!(seen, "");
    let (seen, _) = lab.job(&base, &[&two, &one], FILES).await;
    assert!(seen.starts_with("./a:one\n./d/new:one\n./d/x:one\n"), "{seen}");
}

async fn a_folder_made_anew_hides_what_was_in_it(lab: Lab) {
    let base = lab.source("t1", "mkdir d; echo base > d/x");
    let (_, one) = lab.job(&base, &[], "echo one > d/new").await;
    let (_, two) = lab.job(&base, &[], "rm -r d; mkdir d; echo two > d/two").await;
    let (one, two) = (one.expect("it wrote"), two.expect("it wrote"));
    let (seen, _) = lab.job(&base, &[&one, &two], FILES).await;
    assert_eq!(seen, "./d/two:two\n");
}

async fn a_layer_named_twice_lies_where_it_was_first(lab: Lab) {
    let base = lab.source("t1", "echo base > a");
    let (_, one) = lab.job(&base, &[], "echo one > a").await;
    let one = one.expect("it wrote");
    let (_, left) = lab.job(&base, &[&one], "echo left > a").await;
    let (_, right) = lab.job(&base, &[&one], "echo right > r").await;
    let (left, right) = (left.expect("it wrote"), right.expect("it wrote"));
    // A diamond, as its paths are written one after the other.
    let (seen, _) = lab.job(&base, &[&one, &left, &one, &right], FILES).await;
    assert_eq!(seen, "./a:left\n./r:right\n");
}

async fn siblings_do_not_see_one_another(lab: Lab) {
    let base = lab.source("t1", "echo base > a");
    let (left, right) = tokio::join!(
        lab.job(&base, &[], "echo left > a; sleep 0.1; cat a; ls"),
        lab.job(&base, &[], "echo right > a; echo more > b; sleep 0.1; cat a; ls"),
    );
    assert_eq!((left.0.as_str(), right.0.as_str()), ("left\na\n", "right\na\nb\n"));
}

async fn a_layer_does_not_change_when_a_child_writes(lab: Lab) {
    let base = lab.source("t1", "echo base > a");
    let (_, one) = lab.job(&base, &[], "echo one > a; echo one > b").await;
    let one = one.expect("it wrote");
    lab.job(&base, &[&one], "echo two >> a; echo two > b; rm b").await;
    let (seen, _) = lab.job(&base, &[&one], FILES).await;
    assert_eq!(seen, "./a:one\n./b:one\n");
    let (seen, _) = lab.job(&base, &[], FILES).await;
    assert_eq!(seen, "./a:base\n");
}

async fn modes_links_and_times_are_kept(lab: Lab) {
    let base =
        lab.source("t1", "echo s > s; touch -d @1000000000 s; chmod 4755 s; ln -s gone dangling");
    let write = "mkdir ro; echo x > ro/x; chmod 400 ro/x; touch -d @1100000000 ro/x; \
                 touch -d @1200000000 ro; chmod 555 ro; ln -s /etc/passwd abs; mkfifo fifo";
    let show = "stat -c '%n %A %Y' s ro ro/x; stat -c '%F %N' dangling abs fifo";
    let (inside, layer) = lab.job(&base, &[], &format!("{write}; {show}")).await;
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], show).await;
    assert_eq!(seen, inside);
    assert!(seen.starts_with("s -rwsr-xr-x 1000000000\nro dr-xr-xr-x 1200000000\n"), "{seen}");
}

async fn hard_links_stay_one_file(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let (_, layer) = lab.job(&base, &[], "echo two > b; ln b c").await;
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], "stat -c %h b c; cat c").await;
    assert_eq!(seen, "2\n2\ntwo\n");
}

async fn names_that_are_not_utf_8_are_kept(lab: Lab) {
    let base =
        lab.source("t1", "mkdir \"$(printf 'd\\377')\"; echo one > \"$(printf 'd\\377/a\\377')\"");
    let script = "rm d*/a*; echo two > \"$(printf 'd\\377/b\\377')\"";
    let (_, layer) = lab.job(&base, &[], script).await;
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], "cat d*/*; ls d* | wc -l").await;
    assert_eq!(seen, "two\n1\n");
}

async fn a_long_chain_is_flattened(lab: Lab) {
    const N: usize = 430;
    let base = lab.source("t1", "mkdir a b d; for n in a b d; do echo x > $n/base; done");
    // Within a block and across blocks: a folder made anew, one removed and made again later, files
    // added and deleted.
    let changes = [
        (0, "rm -r a; mkdir a; echo 0 > a/0"),
        (20, "rm -r b; echo 20 > a/20"),
        (40, "mkdir b; echo 40 > b/40; rm a/0"),
        (150, "rm -r d"),
        (260, "mkdir d; echo 260 > d/260; rm b/40; echo 260 > b/260"),
    ];
    let mut layers: Vec<LayerId> = Vec::new();
    for n in 0..N {
        let change = changes.iter().find(|(at, _)| *at == n);
        let script = change.map_or(format!("echo {n} > last"), |(_, script)| (*script).to_owned());
        // Each on the few that matter to it, to keep the test short.
        let matter: Vec<&LayerId> = changes.iter().filter_map(|(at, _)| layers.get(*at)).collect();
        let (_, layer) = lab.job(&base, &matter, &script).await;
        layers.push(layer.expect("it wrote"));
    }
    let (seen, _) = lab.job(&base, &layers.iter().collect::<Vec<_>>(), FILES).await;
    let last = N - 1;
    assert_eq!(seen, format!("./a/20:20\n./b/260:260\n./d/260:260\n./last:{last}\n"));
}

fn working_tree(lab: &Lab, script: &str, hidden: &[&str]) -> Base {
    let root = lab.path("tree");
    std::fs::create_dir(&root).unwrap();
    shell_in(&root, script).unwrap();
    Base::WorkingTree {
        root,
        hidden: hidden.iter().map(PathBuf::from).collect(),
        git: None,
        over: vec![],
    }
}

async fn a_working_tree_is_seen_but_never_written(lab: Lab) {
    let base = working_tree(
        &lab,
        "echo one > a; mkdir -p sub/target target keep; echo no > sub/target/x; \
         echo no > target/x; echo no > .env; echo yes > sub/y; chmod 751 sub; \
         ln -s keep link; echo yes > keep/z",
        &["target/", "sub/target", ".env", "not/there", "target/x", "link/z", "../a", ""],
    );
    let before = list(&lab);
    let (seen, layer) = lab
        .job(&base, &[], &format!("{FILES}; stat -c %a sub; rm a; echo new > keep/new; rm -r sub"))
        .await;
    assert_eq!(seen, "./a:one\n./keep/z:yes\n./sub/y:yes\n751\n");
    assert_eq!(list(&lab), before);
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], FILES).await;
    assert_eq!(seen, "./keep/new:new\n./keep/z:yes\n");
}

fn list(lab: &Lab) -> Vec<u8> {
    let mut command = kiln_stdx::process::command("find");
    command.arg(lab.path("tree")).args(["-printf", "%P %y %m %T@ %C@\n"]);
    kiln_stdx::process::output(&mut command).unwrap()
}

async fn a_data_folder_inside_the_working_tree_is_not_seen(lab: Lab) {
    let root = lab.path("");
    std::fs::write(root.join("a"), "one\n").unwrap();
    let base = Base::WorkingTree { root, hidden: vec![], git: None, over: vec![] };
    let (_, layer) = lab.job(&base, &[], "test ! -e layers; rm a; echo two > b").await;
    let script = "test ! -e layers; test ! -e a; cat b";
    assert_eq!(lab.job(&base, &[&layer.expect("it wrote")], script).await.0, "two\n");
}

async fn a_hidden_path_may_be_made_by_the_job(lab: Lab) {
    let base = working_tree(&lab, "mkdir target; echo old > target/x; echo 1 > a", &["target"]);
    let (_, layer) = lab.job(&base, &[], "mkdir target; echo new > target/y").await;
    let (seen, _) = lab.job(&base, &[&layer.expect("it wrote")], FILES).await;
    assert_eq!(seen, "./a:1\n./target/y:new\n");
}

async fn a_link_in_the_place_of_a_folder_is_not_followed(lab: Lab) {
    let outside = lab.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("x"), "precious").unwrap();
    let base = lab.source("t1", "mkdir -p d/e; echo 1 > d/x; echo 1 > d/e/y");
    let link = format!("rm -r d; ln -s '{}' d", outside.display());
    let (_, linked) = lab.job(&base, &[], &link).await;
    let (_, removed) = lab.job(&base, &[], "rm d/x; rm -r d/e; echo 2 > d/z").await;
    let (linked, removed) = (linked.expect("it wrote"), removed.expect("it wrote"));
    lab.job(&base, &[&linked, &removed], "ls d").await;
    lab.job(&base, &[&removed, &linked], "ls d").await;
    let left: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_to_string(outside.join("x")).unwrap(), "precious");
}

async fn a_tree_of_several_owners_is_copied_by_one_user(lab: Lab) {
    let base = working_tree(&lab, "echo one > a; echo two > b", &[]);
    let theirs = lab.path("tree/b");
    // Only root can make such a tree.
    if std::os::unix::fs::chown(&theirs, Some(1234), Some(1234)).is_err() {
        return;
    }
    let workspaces =
        Workspaces::open(&lab.path("others"), Some(kiln_workspace::Driver::OverlayUser)).unwrap();
    let attempt = lab.next_attempt();
    assert!(workspaces.prepare(attempt, "place", &base, &[], &[]).unwrap().mount.is_none());
    std::os::unix::fs::chown(&theirs, Some(0), Some(0)).unwrap();
    assert!(workspaces.prepare(attempt, "place", &base, &[], &[]).unwrap().mount.is_some());
}

async fn a_layer_that_is_missing_is_named(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let missing = vec![LayerId::Attempt("9-9-9".to_owned()), LayerId::Attempt("../x".to_owned())];
    let attempt = lab.next_attempt();
    match lab.workspaces.prepare(attempt, "place", &base, &missing, &[]) {
        Err(WorkspaceError::Missing(named)) => assert_eq!(named, missing),
        other => panic!("{other:?}"),
    }
    let base = Base::Source { layer: LayerId::Source("t2".to_owned()), git: None };
    let refused = lab.workspaces.prepare(attempt, "place", &base, &[], &[]).unwrap_err();
    assert_eq!(refused.to_string(), "not on this machine: the source `t2`");
    assert_eq!(lab.workspaces.layer_paths(&missing[0]), None);
}

async fn a_second_try_begins_anew(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let attempt = lab.next_attempt();
    lab.run(attempt, &base, &[], "echo first > b; rm a").await;
    assert_eq!(lab.run(attempt, &base, &[], "ls; echo second > c").await, "a\n");
    assert_eq!(lab.workspaces.attempts().unwrap(), [attempt]);
    let layer = lab.workspaces.seal(attempt).unwrap().expect("it wrote");
    assert_eq!(lab.workspaces.attempts().unwrap(), []);
    assert!(!lab.workspaces.attempt_dir(attempt).exists());
    // Sealed once more, after a crash that forgot the first.
    lab.run(attempt, &base, &[], "echo third > d").await;
    assert_eq!(lab.workspaces.seal(attempt).unwrap(), Some(layer.clone()));
    assert_eq!(lab.job(&base, &[&layer], FILES).await.0, "./a:one\n./d:third\n");
    assert!(matches!(lab.workspaces.seal(attempt), Err(WorkspaceError::NoAttempt(_))));
    assert!(lab.workspaces.discard(attempt).is_ok());
}

async fn a_source_is_made_once_and_whole(lab: Lab) {
    let failed = lab.workspaces.make_source("t1", |folder, _| {
        std::fs::write(folder.join("half"), "").unwrap();
        Err("the network is gone".to_owned())
    });
    assert_eq!(failed.unwrap_err().to_string(), "cannot make the source `t1`: the network is gone");
    assert!(!lab.workspaces.has_source("t1"));
    lab.source("t1", "echo one > a");
    assert!(lab.workspaces.has_source("t1"));
    let again = lab.workspaces.make_source("t1", |_, _| panic!("it is there"));
    assert_eq!(again.unwrap(), LayerId::Source("t1".to_owned()));
    assert_eq!(made_sources(&lab), ["t1", "t1.looks"]);
}

/// What there is of sources: each with how its folder looked.
fn made_sources(lab: &Lab) -> Vec<String> {
    let entries = std::fs::read_dir(lab.path("layers/sources")).unwrap().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

async fn two_makers_at_once_make_one_source(lab: Lab) {
    let barrier = std::sync::Barrier::new(2);
    let make = || {
        lab.workspaces.make_source("t1", |folder, _| {
            barrier.wait();
            std::fs::write(folder.join("a"), "one\n").map_err(|error| error.to_string())
        })
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(make);
        assert_eq!(make().unwrap(), other.join().unwrap().unwrap());
    });
    assert_eq!(made_sources(&lab), ["t1", "t1.looks"]);
}

async fn what_a_crash_left_is_removed(lab: Lab) {
    // The number of a process that has ended and been waited for.
    let mut child = kiln_stdx::process::command("true").spawn().unwrap();
    child.wait().unwrap();
    let stale = lab.path(&format!("layers/sources/.tmp-{}-0", child.id()));
    let living = lab.path("layers/sources/.tmp-1-0");
    for folder in [&stale, &living] {
        std::fs::create_dir_all(folder.join("half")).unwrap();
    }
    let driver = lab.workspaces.driver();
    let again = Workspaces::open(&lab.path("layers"), None).unwrap();
    assert_eq!(again.driver(), driver, "it is remembered");
    assert!(!stale.exists() && living.exists());
}

async fn odd_names_are_refused(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    for name in ["", ".", "..", "a/b", "/", "../x", "a\0b", ".tmp-1-1", "a/"] {
        let made = lab.workspaces.make_source(name, |_, _| panic!("it is refused before"));
        assert!(matches!(made, Err(WorkspaceError::Name(_))), "{name:?}");
        assert!(!lab.workspaces.has_source(name));
        let attempt = lab.next_attempt();
        let prepared = lab.workspaces.prepare(attempt, name, &base, &[], &[]);
        assert!(matches!(prepared, Err(WorkspaceError::Name(_))), "{name:?}");
    }
}

async fn a_tree_that_its_owner_may_not_write_is_removed(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let attempt = lab.next_attempt();
    lab.run(attempt, &base, &[], "mkdir -p d/e; echo x > d/e/x; chmod 0 d/e; chmod 500 d").await;
    lab.workspaces.discard(attempt).unwrap();
    assert!(!lab.workspaces.attempt_dir(attempt).exists());
}

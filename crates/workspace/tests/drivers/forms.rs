//! What a job may leave, and where: every kind of file, every shape of tree, under any driver, also
//! when the next job runs under another.

use kiln_model::layer::LayerId;
use kiln_workspace::{Base, Driver, Workspaces};

use crate::lab::Lab;

const BASE: &str = "umask 022; mkdir -p d/e gone/deep anew shut; echo x > shut/x; \
                    for n in a b tofolder d/x d/e/y gone/deep/z anew/old Case; do echo $n > $n; done; \
                    ln -s a link; ln a again; truncate -s 2M hole; echo end >> hole; chmod 555 shut; \
                    find . -exec touch -h -d @1200000000 {} +";

const CHANGE: &str = "umask 022; rm a; rm -r gone; rm -r anew; mkdir anew; echo new > anew/new; \
                      rm tofolder; mkdir tofolder; echo in > tofolder/in; mv Case case; mv d moved; \
                      echo one > one; ln one two; ln -s nowhere three; mkfifo pipe; chmod 4755 b; \
                      truncate -s 3M mine; echo x >> mine; mkdir -p empty/er; echo more >> hole; \
                      chmod 755 shut; rm shut/x; chmod 555 shut; echo x > ',:\\'; \
                      find . -exec touch -h -d @1300000000.5 {} +";

const SHOW: &str = "find . -mindepth 1 -printf '%P %y %m %T@ %l\\n' | sort; test one -ef two; \
                    find . -type f | sort | xargs -d '\\n' cksum; \
                    for h in hole mine; do test $(stat -c %b $h) -lt 100 && echo $h has holes; done";

pub async fn what_one_driver_left_another_shows(mut lab: Lab) {
    let here = lab.workspaces.driver();
    let root = lab.path("layers");
    let base = lab.source("t1", BASE);
    let mut first = None::<String>;
    for (writer, reader) in
        [(here, here), (here, Driver::Copy), (Driver::Copy, here), (Driver::Copy, Driver::Copy)]
    {
        lab.workspaces = Workspaces::open(&root, Some(writer)).unwrap();
        let (inside, layer) = lab.job(&base, &[], &format!("{CHANGE}; {SHOW}")).await;
        let layer = layer.expect("it wrote");
        let digest = lab.workspaces.digest(&layer).unwrap();
        lab.workspaces = Workspaces::open(&root, Some(reader)).unwrap();
        let (seen, nothing) = lab.job(&base, &[&layer], SHOW).await;
        assert_eq!(seen, inside, "{writer:?}, {reader:?}");
        assert_eq!(nothing, None, "{writer:?}, {reader:?}");
        assert!(seen.contains("hole has holes\nmine has holes\n"), "{seen}");
        // The layer is what it was: only another form of it was made.
        assert_eq!(lab.workspaces.digest(&layer).unwrap(), digest);
        assert_eq!(first.get_or_insert(inside).clone(), seen, "{writer:?}, {reader:?}");
        // And once more, over that: what is deleted of it, too.
        let (_, second) = lab.job(&base, &[&layer], "rm -r anew two; echo 2 > a").await;
        lab.workspaces = Workspaces::open(&root, Some(writer)).unwrap();
        let second = second.expect("it wrote");
        let (seen, _) =
            lab.job(&base, &[&layer, &second], "test ! -e anew; test ! -e two; cat a one").await;
        assert_eq!(seen, "2\none\n", "{writer:?}, {reader:?}");
    }
}

pub async fn attributes_sockets_and_owners_are_seen_by_the_child(lab: Lab) {
    let base = lab.source("t1", "echo one > a; mkdir d; echo two > d/b");
    let attempt = lab.next_attempt();
    let socket = "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"d/socket\", Listen => 1) or die'";
    let root = rustix::process::geteuid().is_root();
    let chown = if root { "chown 1234:4321 a; chown 77 d; mknod null c 1 3;" } else { "" };
    lab.run(
        attempt,
        &base,
        &[],
        &format!("{chown} chmod 640 a; chmod 711 d; {socket}; mkdir x; echo 1 > x/f"),
    )
    .await;
    let has_attributes = !lab.attribute_is_refused("user.kind");
    if has_attributes {
        lab.set_attribute(attempt, "x", "user.kind", "folder");
        lab.set_attribute(attempt, "x/f", "user.kind", "file");
    }
    let layer = lab.workspaces.seal(attempt).unwrap().expect("it wrote");
    let show = "stat -c '%n %F %a %u:%g' a d d/socket $(test ! -e null || echo null); cat a d/b";
    let (seen, _) = lab.job(&base, &[&layer], show).await;
    let (me, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let of = |there: &str| if root { there.to_owned() } else { format!("{me}:{group}") };
    let mut want = format!(
        "a regular file 640 {}\nd directory 711 {}\n",
        of("1234:4321"),
        of(&format!("77:{group}"))
    );
    let mode = seen.lines().find(|line| line.starts_with("d/socket socket")).expect("it is there");
    want += &format!("{mode}\n");
    if root {
        want += &seen
            .lines()
            .find(|line| line.starts_with("null character special file"))
            .map(|l| format!("{l}\n"))
            .expect("it is there");
    }
    assert_eq!(seen, format!("{want}one\ntwo\n"));
    if has_attributes {
        // A child that changes them has them below its change.
        let child = lab.next_attempt();
        lab.run(child, &base, &[layer], "echo 2 >> x/f; chmod 700 x").await;
        for (file, value) in [("x", "folder"), ("x/f", "file")] {
            assert_eq!(lab.attribute(child, file, "user.kind"), value, "{file}");
        }
    }
}

pub async fn a_deep_tree_is_kept_and_removed(lab: Lab) {
    let base = lab.source("t1", "echo one > a");
    let down = "n=0; while test $n -lt 1500; do mkdir d; cd d; n=$((n+1)); done";
    let (_, layer) = lab.job(&base, &[], &format!("{down}; echo deep > f")).await;
    let layer = layer.expect("it wrote");
    let find = "n=0; while test $n -lt 1500; do cd d; n=$((n+1)); done; cat f";
    assert_eq!(lab.job(&base, &[&layer], find).await.0, "deep\n");
    lab.workspaces.digest(&layer).unwrap();
    // Sealed again: what had the name is removed.
    let (LayerId::Attempt(name), attempt) = (&layer, lab.next_attempt()) else { unreachable!() };
    assert!(lab.path("layers/sealed").join(name).exists());
    lab.run(attempt, &base, &[], down).await;
    lab.workspaces.discard(attempt).unwrap();
    assert!(!lab.workspaces.attempt_dir(attempt).exists());
}

pub async fn a_thousand_layers_are_one_view(lab: Lab) {
    let base = lab.source("t1", "mkdir d; echo base > d/base");
    let mut layers = Vec::new();
    for n in 0..1000 {
        let folder = lab.path(&format!("layers/sealed/9-{n}-1"));
        std::fs::create_dir_all(folder.join("d")).unwrap();
        std::fs::write(folder.join(format!("d/{}", n % 100)), n.to_string()).unwrap();
        layers.push(LayerId::Attempt(format!("9-{n}-1")));
    }
    let all: Vec<&LayerId> = layers.iter().collect();
    let (seen, layer) = lab.job(&base, &all, "ls d | wc -l; cat d/0 d/99; echo; rm d/5").await;
    assert_eq!(seen, "101\n900999\n");
    let all: Vec<&LayerId> = layers.iter().chain(&layer).collect();
    assert_eq!(lab.job(&base, &all, "ls d | wc -l").await.0, "100\n");
}

pub async fn the_layers_may_be_anywhere(mut lab: Lab) {
    let driver = lab.workspaces.driver();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    for folder in [
        lab.path("a,b:c\\d\ne \"f/layers"),
        lab.path(&"long".repeat(60)),
        memory.path().join("layers"),
    ] {
        lab.workspaces = Workspaces::open(&folder, Some(driver)).unwrap();
        let base = lab.source("t1", "echo one > a; mkdir d; echo two > d/b");
        let (_, layer) = lab.job(&base, &[], "rm a; echo three > d/c; echo x > ',:\\'").await;
        let layer = layer.expect("it wrote");
        let (seen, _) = lab.job(&base, &[&layer], "ls . d; cat d/*").await;
        assert_eq!(
            seen,
            ",:\\\nd\n\nd:\nb\nc\ntwo\nthree\n".replacen(",:\\\n", ".:\n,:\\\n", 1),
            "{folder:?}"
        );
    }
}

/// The kernel renames no folder of a layer below; whoever asks is told so and copies, as `mv` does.
pub async fn a_folder_of_a_layer_below_can_be_moved(lab: Lab) {
    let base = lab.source("t1", "mkdir -p d/e; echo one > d/e/a; echo two > d/b");
    let (_, layer) = lab.job(&base, &[], "mv d f; mv f/e e; mkdir d; mv e d/E").await;
    let (seen, _) = lab
        .job(&base, &[&layer.expect("it wrote")], "find . -type f | sort | xargs grep -H .")
        .await;
    assert_eq!(seen, "./d/E/a:one\n./f/b:two\n");
}

/// As a person finds it who has unpacked a data folder elsewhere.
pub async fn a_base_is_what_it_was_for_every_driver(lab: Lab) {
    let base = lab.source("t1", BASE);
    let Base::Source { layer, .. } = &base else { unreachable!() };
    let digest = lab.workspaces.digest(layer).unwrap();
    lab.job(&base, &[], CHANGE).await;
    assert_eq!(lab.workspaces.digest(layer).unwrap(), digest);
}

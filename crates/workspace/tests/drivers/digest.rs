//! Equal changes have equal digests, whoever made them; other changes have others.

use std::collections::BTreeMap;

use kiln_model::layer::{Digest, LayerId};
use kiln_workspace::{Driver, Workspaces};

use crate::lab::Lab;

const BASE: &str = "umask 022; mkdir -p d/e f g/h; for n in a b d/x d/e/y f/z g/h/w; do echo $n > $n; done; \
                    ln -s a link; chmod 755 b";

/// Each of them another change.
const CHANGES: &[&str] = &[
    "echo new > new",
    "echo new > other",
    "echo NEW > new",
    "echo new > new; chmod 600 new",
    "echo new > new; chmod 4755 new",
    "echo new > d/new",
    "echo new > d/e/new",
    "rm a",
    "rm -r d",
    "rm d/x",
    "rm d/e/y",
    "rm -r d; mkdir d",
    "rm -r d; mkdir d; echo new > d/new",
    "rm -r d; echo file > d",
    "rm a; mkdir a",
    "rm a; mkdir a; echo in > a/in",
    "rm a; ln -s b a",
    "ln -sfn b link",
    "mkdir empty",
    "mkdir -p empty/deep",
    "chmod 700 .; echo new > new",
    "chmod 700 d",
    "chmod 700 g/h",
    "echo one > one; echo one > two",
    "echo one > one; ln one two",
    "echo one > one; ln one two; ln one d/three",
    "mkfifo pipe",
    "mv b moved",
    "mv g moved",
    "mv a t; mv b a; mv t b",
    "printf 'a\\n' > a",
    "echo x > $(printf 'n\\377')",
    "echo x > .wh.a; echo x > .wh..wh..opq",
    "truncate -s 1M hole",
    "truncate -s 1048577 hole",
    "truncate -s 1M hole; printf x | dd of=hole bs=1 seek=500000 conv=notrunc status=none",
];

/// The digest of what a job leaves.
async fn digest_of(lab: &Lab, script: &str) -> Digest {
    let base = lab.source("t1", BASE);
    let (_, layer) = lab.job(&base, &[], &format!("umask 022; {script}")).await;
    lab.workspaces.digest(&layer.expect("it wrote")).unwrap()
}

pub async fn equal_changes_have_equal_digests(mut lab: Lab) {
    let mut seen = BTreeMap::new();
    for script in CHANGES {
        let digest = digest_of(&lab, script).await;
        if let Some(other) = seen.insert(digest, *script) {
            panic!("`{script}` and `{other}` have one digest");
        }
    }
    lab.workspaces = Workspaces::open(&lab.path("copied"), Some(Driver::Copy)).unwrap();
    for script in CHANGES {
        let digest = digest_of(&lab, script).await;
        assert_eq!(seen.get(&digest), Some(script), "`{script}`, copied");
    }
}

pub async fn a_digest_is_of_content_alone(lab: Lab) {
    let plain = digest_of(&lab, "echo new > new; mkdir m; echo y > m/y").await;
    for same in [
        "mkdir m; echo y > m/y; echo new > new",
        "echo new > new; mkdir m; echo y > m/y; touch -d @1000000000 new m/y m .",
        "echo nothing > t; echo new > new; mkdir m; echo y > m/y; rm t",
    ] {
        assert_eq!(digest_of(&lab, same).await, plain, "{same}");
    }
    // Zeros are zeros, written or not. A hole of this size would take hours to read.
    let hole = digest_of(&lab, "truncate -s 300K zeros").await;
    assert_eq!(digest_of(&lab, "head -c 307200 /dev/zero > zeros").await, hole);
    if lab.workspaces.driver() != Driver::Copy {
        digest_of(&lab, "truncate -s 10T hole").await;
    }
}

pub async fn extended_attributes_count(lab: Lab) {
    if lab.attribute_is_refused("user.kind") {
        return;
    }
    let base = lab.source("t1", BASE);
    let mut digests = Vec::new();
    for value in ["", "one", "two", "one"] {
        let attempt = lab.next_attempt();
        lab.run(attempt, &base, &[], "echo new > new").await;
        if !value.is_empty() {
            lab.set_attribute(attempt, "new", "user.kind", value);
        }
        let layer = lab.workspaces.seal(attempt).unwrap().expect("it wrote");
        digests.push(lab.workspaces.digest(&layer).unwrap());
    }
    assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    assert_eq!(digests[1], digests[3]);
}

pub async fn a_kept_digest_is_not_taken_for_another_layers(lab: Lab) {
    let base = lab.source("t1", BASE);
    let attempt = lab.next_attempt();
    lab.run(attempt, &base, &[], "echo first > b").await;
    let layer = lab.workspaces.seal(attempt).unwrap().expect("it wrote");
    let first = lab.workspaces.digest(&layer).unwrap();
    assert_eq!(lab.workspaces.digest(&layer).unwrap(), first);
    // The same attempt once more, after a crash that forgot the first.
    lab.run(attempt, &base, &[], "echo second > b").await;
    assert_eq!(lab.workspaces.seal(attempt).unwrap(), Some(layer.clone()));
    let second = lab.workspaces.digest(&layer).unwrap();
    assert_ne!(second, first);
    // A torn note is no digest.
    let notes = lab.path("layers/digests");
    let note = std::fs::read_dir(&notes).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&note, "{\"digest\":").unwrap();
    assert_eq!(lab.workspaces.digest(&layer).unwrap(), second);
}

pub async fn a_layer_of_several_folders_has_the_digest_of_their_sum(lab: Lab) {
    let base = lab.source("t1", BASE);
    let (_, below) = lab.job(&base, &[], "rm a; mkdir n; echo 1 > n/1; echo 2 > n/2").await;
    let (_, at_once) = lab.job(&base, &[], "rm a; mkdir n; echo 1 > n/1; echo two > n/2").await;
    let attempt = lab.next_attempt();
    let own = [below.expect("it wrote")];
    lab.run_on(attempt, &base, (&[], &own), "echo two > n/2").await;
    let layer = lab.workspaces.seal(attempt).unwrap().expect("it has files of its own");
    let digest = lab.workspaces.digest(&layer).unwrap();
    assert_ne!(digest, lab.workspaces.digest(&own[0]).unwrap());
    assert_eq!(digest, lab.workspaces.digest(&at_once.expect("it wrote")).unwrap());
    let missing = LayerId::Attempt("9-9-9".to_owned());
    let refused = lab.workspaces.digest(&missing).unwrap_err();
    assert_eq!(refused.to_string(), "not on this machine: the files of attempt `9-9-9`");
}

//! Layers as archives, and back, between machines with other drivers.

use kiln_model::layer::LayerId;
use kiln_workspace::archive::{Bounds, Over};
use kiln_workspace::{Driver, Workspaces, archive};

use crate::lab::Lab;

const BOUNDS: Bounds = Bounds { bytes: 1 << 30, entries: 100_000, depth: 1000 };

const BASE: &str = "umask 022; mkdir -p d/e gone/deep anew; for n in a b d/x d/e/y gone/deep/z anew/old; \
                    do echo $n > $n; done; ln -s a link; \
                    find . -type f -exec touch -d @1200000000 {} +; touch -h -d @1200000000 link";
const CHANGE: &str = "umask 022; rm a d/e/y; rm -r gone; rm -r anew; mkdir anew; echo new > anew/new; \
                      echo one > one; ln one two; ln -s nowhere three; mkfifo pipe; chmod 4755 b; \
                      truncate -s 3M hole; echo x >> hole; echo x > .wh.b; mkdir -p empty/er; \
                      echo x > \"$(printf 'odd\\377\\n')\"; touch -d @1000000000.123456789 one";
/// All of it, times to the nanosecond and what is stored of the hole.
const SHOW: &str = "find . -mindepth 1 ! -type d -printf '%P %y %m %T@ %l %n\\n' | sort | cat -v; \
                    find . -mindepth 1 -type d -printf '%P %m\\n' | sort | cat -v; \
                    find . -type f | sort | xargs -d '\\n' cksum 2>&1 | cat -v; \
                    test ! -e hole || test $(stat -c %b hole) -lt 100";

pub async fn a_packed_layer_is_the_same_layer_elsewhere(mut lab: Lab) {
    let base = lab.source("t1", BASE);
    let (_, layer) = lab.job(&base, &[], CHANGE).await;
    let layer = layer.expect("it wrote");
    let (seen, _) = lab.job(&base, &[&layer], SHOW).await;
    let digest = lab.workspaces.digest(&layer).unwrap();
    let mut bytes = Vec::new();
    let packed = lab.workspaces.pack(std::slice::from_ref(&layer), &mut bytes).unwrap();
    assert_eq!(packed.n_left_out, 0);
    let here = lab.workspaces.driver();
    let other = LayerId::Attempt("7-7-7".to_owned());
    for (folder, driver) in [("layers", here), ("elsewhere", here), ("copied", Driver::Copy)] {
        lab.workspaces = Workspaces::open(&lab.path(folder), Some(driver)).unwrap();
        let base = lab.source("t1", BASE);
        lab.workspaces.unpack(&other, &bytes[..], &BOUNDS).unwrap();
        assert_eq!(lab.workspaces.digest(&other).unwrap(), digest, "{folder}");
        let mut again = Vec::new();
        lab.workspaces.pack(std::slice::from_ref(&other), &mut again).unwrap();
        assert!(again == bytes, "{folder}");
        assert_eq!(lab.job(&base, &[&other], SHOW).await, (seen.clone(), None), "{folder}");
    }
}

pub async fn a_whole_view_is_packed_and_laid_out(lab: Lab) {
    let base = lab.source("t1", BASE);
    let (seen, layer) = lab.job(&base, &[], &format!("{CHANGE}; rm pipe; {FILES}")).await;
    let layer = layer.expect("it wrote");
    let mut bytes = Vec::new();
    lab.workspaces.pack_view(&base, std::slice::from_ref(&layer), &mut bytes).unwrap();
    let into = lab.path("laid-out");
    archive::unpack(&bytes[..], &into, Over::Nothing, &BOUNDS).unwrap();
    assert_eq!(files_in(&into), seen);
    // Only the changes, over a checkout of one's own.
    let mut bytes = Vec::new();
    lab.workspaces.pack(std::slice::from_ref(&layer), &mut bytes).unwrap();
    let checkout = lab.path("checkout");
    std::fs::create_dir(&checkout).unwrap();
    crate::lab::shell_in(&checkout, BASE).unwrap();
    archive::unpack(&bytes[..], &checkout, Over::Files, &BOUNDS).unwrap();
    assert_eq!(files_in(&checkout), seen);
}

const FILES: &str = "find . -mindepth 1 -printf '%P %y %m %l\\n' | sort | cat -v; \
                     find . -type f | sort | xargs -d '\\n' cksum 2>&1 | cat -v";

fn files_in(folder: &std::path::Path) -> String {
    let mut command = kiln_stdx::process::command("sh");
    command.args(["-ec", FILES]).current_dir(folder).env("LC_ALL", "C");
    String::from_utf8(kiln_stdx::process::output(&mut command).unwrap()).unwrap()
}

pub async fn an_archive_that_is_refused_leaves_the_layer_as_it_was(lab: Lab) {
    let base = lab.source("t1", BASE);
    let (_, layer) = lab.job(&base, &[], "echo one > a; rm b").await;
    let layer = layer.expect("it wrote");
    let digest = lab.workspaces.digest(&layer).unwrap();
    let mut bytes = Vec::new();
    lab.workspaces.pack(std::slice::from_ref(&layer), &mut bytes).unwrap();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        lab.workspaces.unpack(&layer, &bytes[..cut], &BOUNDS).unwrap_err();
    }
    let few = Bounds { entries: 1, ..BOUNDS };
    let refused = lab.workspaces.unpack(&layer, &bytes[..], &few).unwrap_err();
    assert!(refused.to_string().ends_with("more than 1 files"), "{refused}");
    assert_eq!(lab.workspaces.digest(&layer).unwrap(), digest);
    let left = std::fs::read_dir(lab.path("layers/sealed")).unwrap().flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
}

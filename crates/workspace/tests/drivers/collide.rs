//! Layers that meet and changed the same paths; and jobs that start from nothing.

use kiln_model::layer::LayerId;
use kiln_workspace::{Base, Collisions};

use crate::lab::Lab;

const SOURCE: &str = "mkdir -p dir/deep out && echo 1 >dir/one && echo 2 >dir/two && \
                      echo r >out/report && ln -s one dir/link";

/// The layers of two jobs on the same source, as a third one that needs both meets them.
async fn two(lab: &Lab, first: &str, second: &str) -> (Vec<LayerId>, Collisions) {
    let source = lab.source("s1", SOURCE);
    let (_, first) = lab.job(&source, &[], first).await;
    let (_, second) = lab.job(&source, &[], second).await;
    let layers = vec![first.expect("it wrote"), second.expect("it wrote")];
    let found = lab.workspaces.collisions(&layers, &[vec![1], vec![2]]).expect("they are walked");
    (layers, found)
}

fn paths(found: &Collisions) -> Vec<String> {
    let all = found.found.iter().flat_map(|one| &one.paths);
    all.map(|path| path.display().to_string()).collect()
}

pub async fn a_path_that_two_layers_changed_differently_is_found(lab: Lab) {
    let first = "echo a >dir/one; echo same >new; echo a >dir/deep/x; ln -sf two dir/link; \
                 echo a >out/a; mkdir made; echo a >made/a; chmod 755 dir/two; echo a >kind";
    let second = "echo b >dir/one; echo same >new; echo b >dir/deep/x; ln -sf deep dir/link; \
                  echo b >out/b; mkdir made; echo b >made/b; echo 3 >dir/two; mkdir kind";
    let (_, found) = two(&lab, first, second).await;
    let [pair] = found.found.as_slice() else { panic!("{found:?}") };
    assert_eq!((pair.lower, pair.upper, pair.n_paths, found.cut), (0, 1, 5, false));
    assert_eq!(paths(&found), ["kind", "dir/link", "dir/one"]);
}

pub async fn merging_and_agreeing_is_no_collision(lab: Lab) {
    let first = "echo same >dir/one; rm dir/two; echo a >out/a; mkdir -p new/a; echo a >only";
    let second = "echo same >dir/one; rm dir/two; echo b >out/b; mkdir -p new/b";
    let (_, found) = two(&lab, first, second).await;
    assert_eq!(found, Collisions::default());
}

pub async fn a_deletion_collides_with_a_change(lab: Lab) {
    let (_, found) = two(&lab, "rm dir/one; rm -r out", "echo b >dir/one; echo b >out/b").await;
    assert_eq!(paths(&found), ["out", "dir/one"]);
    let (_, found) = two(&lab, "echo a >dir/one", "rm dir/one").await;
    assert_eq!(paths(&found), ["dir/one"]);
}

pub async fn what_a_folder_made_anew_hides_is_a_collision(lab: Lab) {
    let anew = "rm -r out; mkdir out; echo b >out/b";
    let (layers, found) = two(&lab, "echo a >out/a; echo b >out/b", anew).await;
    assert_eq!(paths(&found), ["out/a"]);
    let child: Vec<&LayerId> = layers.iter().collect();
    let (seen, _) = lab.job(&lab.source("s1", SOURCE), &child, "ls out").await;
    assert_eq!(seen, "b\n");
}

pub async fn layers_that_have_met_do_not_collide_again(lab: Lab) {
    let source = lab.source("s1", SOURCE);
    let mut layers = Vec::new();
    for script in ["echo a >dir/one", "echo b >dir/one", "echo c >dir/one"] {
        let below: Vec<&LayerId> = layers.iter().collect();
        let (_, layer) = lab.job(&source, &below, script).await;
        layers.push(layer.expect("it wrote"));
    }
    let among = |through: [u64; 3]| {
        let through = through.map(|bits| vec![bits]);
        let found = lab.workspaces.collisions(&layers, &through).expect("they are walked");
        found.found.iter().map(|one| (one.lower, one.upper)).collect::<Vec<_>>()
    };
    assert_eq!(among([1, 1, 1]), []);
    // The third has seen both others.
    assert_eq!(among([0b11, 0b01, 0b10]), [(1, 2)]);
    // What the second need shows is the third layer, not the first.
    assert_eq!(among([0b01, 0b10, 0b01]), [(1, 2)]);
    assert_eq!(among([0b001, 0b010, 0b100]), [(0, 2), (1, 2)]);
}

pub async fn a_job_that_wants_no_files_has_none_and_its_child_has_all(lab: Lab) {
    let source = lab.source("s1", SOURCE);
    let (seen, layer) = lab.job(&Base::Nothing, &[], "ls -A; mkdir out; echo n >out/new").await;
    assert_eq!(seen, "");
    let layer = layer.expect("it wrote");
    let (seen, _) = lab.job(&source, &[&layer], "ls out; cat dir/one; stat -c %a .").await;
    assert_eq!(seen, "new\nreport\n1\n755\n");
    let (seen, none) = lab.job(&Base::Nothing, &[], "ls -A; stat -c %a .").await;
    assert_eq!((seen.as_str(), none), ("755\n", None));
}

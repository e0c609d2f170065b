//! What the documents show is what happens.
//!
//! In any document, a block opened with "```yaml manifest" is a manifest that `kiln check` accepts,
//! "```yaml wrong" is one that it refuses, and "```sh run" is a script. The scripts of one document
//! run one after another, in a repository whose manifest is the document's last one before them.

use std::path::PathBuf;

use kiln_it::binary::{checkout, kiln};
use kiln_it::world::ran;
use kiln_it::{WorkTree, World};

struct Block {
    /// What follows the fence: `sh run`.
    kind: String,
    line: usize,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open =
                    Some(Block { kind: kind.trim().to_owned(), line: number, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![checkout().join("docs")];
    found.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| checkout().join(name)),
    );
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_example_of_the_documents_is_true() {
    let mut n_run = 0;
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document");
        let world = World::new();
        let tree = world.repository("work");
        for block in blocks(&text) {
            let place = format!("{}:{}", path.display(), block.line);
            match block.kind.as_str() {
                "yaml manifest" | "yaml wrong" => {
                    tree.write(".kiln.yml", &block.text);
                    let done = tree.kiln(["check"]);
                    let expected = if block.kind == "yaml wrong" { 2 } else { 0 };
                    assert_eq!(done.code, Some(expected), "{place}:\n{}", done.said());
                }
                "sh run" => run(&world, &tree, &block, &place),
                _ => continue,
            }
            n_run += 1;
        }
    }
    assert!(n_run >= 10, "only {n_run} examples were found: the search is broken");
}

fn run(world: &World, tree: &WorkTree, block: &Block, place: &str) {
    let folder = kiln().parent().expect("a program lies in a folder");
    let path = std::env::var("PATH").expect("a path");
    let mut shell = world.command("sh");
    shell.env("PATH", format!("{}:{path}", folder.display())).current_dir(&tree.path);
    let done = ran(shell.args(["-eu", "-c", &block.text]));
    assert_eq!(done.code, Some(0), "{place}:\n{}", done.said());
}

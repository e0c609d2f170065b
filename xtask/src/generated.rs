//! Files that are made from the source. `cargo xtask docs` writes them; a test compares them.

use std::path::Path;

use anyhow::{Context, Result};
use kiln_it::{World, binary};

/// A file's path in the checkout and what it must hold now.
pub struct Generated {
    pub path: &'static str,
    pub text: String,
}

/// Everything that is generated.
pub fn all() -> Result<Vec<Generated>> {
    let mut schema = serde_json::to_string_pretty(&kiln_manifest::schema())?;
    schema.push('\n');
    Ok(vec![
        Generated { path: "docs/schema/kiln.schema.json", text: schema },
        Generated { path: "docs/cli.md", text: command_line()? },
    ])
}

/// Writes every file whose content is another now.
pub fn write_all() -> Result<()> {
    for file in all()? {
        let path = binary::checkout().join(file.path);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == file.text) {
            continue;
        }
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&path, file.text).with_context(|| path.display().to_string())?;
        println!("wrote {}", file.path);
    }
    Ok(())
}

/// The reference of the command line: the help of the program and of each command, as it prints it.
fn command_line() -> Result<String> {
    let mut text = String::from(
        "# The command line\n\nWhat `kiln help` and `kiln COMMAND --help` print. Written by `cargo xtask docs`.\n",
    );
    describe(&World::new(), &[], &mut text);
    Ok(text)
}

fn describe(world: &World, words: &[String], text: &mut String) {
    let mut args = words.to_vec();
    args.push("--help".to_owned());
    let help = world.kiln(world.path(), &args).success().stdout;
    let name = ["kiln"].into_iter().chain(words.iter().map(String::as_str));
    let name = name.collect::<Vec<_>>().join(" ");
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    *text += &format!("\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for verb in verbs(&help) {
        let mut words = words.to_vec();
        words.push(verb);
        describe(world, &words, text);
    }
}

/// The first words of the lines under `Commands:`.
fn verbs(help: &[&str]) -> Vec<String> {
    let under = help.iter().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let list = under.take_while(|line| !line.is_empty());
    // A description that goes on in the next line is indented further than a name.
    let names = list.filter(|line| line.len() > 2 && !line[2..].starts_with(' '));
    let verbs = names.filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

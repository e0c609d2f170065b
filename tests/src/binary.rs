//! The program under test, built once with the profile of whoever asks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kiln_stdx::process;

/// The built `kiln`.
///
/// `KILN_BIN` names another one. Otherwise cargo builds it into the folder in which the calling
/// test lies, so that `cargo test --workspace` needs nothing before it. A build that is fresh costs
/// a fraction of a second.
pub fn kiln() -> &'static Path {
    let found = KILN.get_or_init(|| match std::env::var_os("KILN_BIN") {
        Some(given) => Ok(PathBuf::from(given)),
        None => build(),
    });
    match found {
        Ok(path) => path,
        Err(why) => panic!("cannot build kiln for the stories: {why}"),
    }
}

/// Makes [`kiln`] give this one, unless it has given another before.
pub fn choose(path: PathBuf) {
    KILN.get_or_init(|| Ok(path));
}

static KILN: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The repository that this package lies in.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// Where cargo puts what it builds, found from where this very program lies.
pub fn target() -> PathBuf {
    let profile = profile_folder();
    profile.parent().expect("a profile's folder lies in the target folder").to_owned()
}

/// `target/debug` for `target/debug/deps/it-0123` and for `target/debug/xtask`.
fn profile_folder() -> PathBuf {
    let this = std::env::current_exe().expect("the path of the running program");
    let folder = this.parent().expect("a program lies in a folder");
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().expect("`deps` has a parent").to_owned(),
        _ => folder.to_owned(),
    }
}

fn build() -> Result<PathBuf, String> {
    let folder = profile_folder();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = process::command(cargo);
    build.args(["build", "--quiet", "--package", "kiln", "--profile", profile, "--target-dir"]);
    build.arg(target()).current_dir(checkout());
    process::output(&mut build).map_err(|error| error.to_string())?;
    Ok(folder.join("kiln"))
}

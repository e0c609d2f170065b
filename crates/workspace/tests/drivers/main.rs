//! Every driver shows every job the same files.
//!
//! Not run by the standard harness: jobs are run by the host executor, whose spawner must be started
//! before any thread exists. The whole table runs with copies and with the overlays of this user; as
//! root once more as nobody, in user namespaces.

mod cases;
mod boundary;
mod caches;
mod collide;
mod digest;
mod forms;
mod history;
mod packing;
mod lab;

use std::process::ExitCode;

use kiln_executor::{HostExecutor, OverlayKind, Spawner};
use kiln_stdx::process;
use kiln_workspace::Driver;

use lab::Lab;

const AS_NOBODY: &str = "--as-nobody";
const ON_SHARED_BLOCKS: &str = "--on-shared-blocks";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let spawner = Spawner::start().expect("the spawner starts");
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let executor = HostExecutor::new(spawner);
    let nobody = args.iter().any(|arg| arg == AS_NOBODY);
    let cases = cases::cases();
    if args.iter().any(|arg| arg == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let probe = tempfile::tempdir().expect("a temporary folder can be made");
    let kind = runtime.block_on(executor.probe_overlay(probe.path())).expect("the probe runs");
    let overlay = match kind {
        Some(OverlayKind::Root) => Some(("overlay", Driver::Overlay)),
        Some(OverlayKind::User) => Some(("overlay_user", Driver::OverlayUser)),
        None => None,
    };
    if overlay.is_none() {
        println!("this machine mounts no overlays");
    }
    let shares = args.iter().any(|arg| arg == ON_SHARED_BLOCKS);
    let drivers: Vec<_> = match shares {
        true => vec![("reflink", Driver::Reflink)],
        false => [("copy", Driver::Copy)].into_iter().chain(overlay).collect(),
    };
    let filter = args.iter().find(|arg| !arg.starts_with("--")).map_or("", String::as_str);

    let selected: Vec<_> = cases.iter().filter(|(name, _)| name.contains(filter)).collect();
    println!("\nrunning {} tests", selected.len() * drivers.len());
    let (mut n_passed, mut n_failed) = (0, 0);
    for (prefix, driver) in drivers {
        for (name, case) in &selected {
            let lab = Lab::new(executor.clone(), driver);
            let passed = runtime.block_on(async { tokio::spawn(case(lab)).await }).is_ok();
            println!("test {prefix}::{name} ... {}", if passed { "ok" } else { "FAILED" });
            *(if passed { &mut n_passed } else { &mut n_failed }) += 1;
        }
    }
    if !nobody && !shares && kind == Some(OverlayKind::Root) {
        for (name, run) in
            [("as_nobody", run_as_nobody as fn(&str) -> bool), ("reflink", run_on_xfs)]
        {
            let passed = run(filter);
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            *(if passed { &mut n_passed } else { &mut n_failed }) += 1;
        }
    }
    let word = if n_failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {n_passed} passed; {n_failed} failed; 0 ignored; 0 measured\n"
    );
    if n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same program as an ordinary user, from a folder where that user may run it.
fn run_as_nobody(filter: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let program = folder.path().join("drivers");
    std::fs::copy(std::env::current_exe().expect("a test has a path"), &program)
        .expect("it copies");
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("it is ours");
    }
    let mut command = process::command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&program).args([AS_NOBODY, filter]).env("TMPDIR", folder.path());
    let done = process::any_output(&mut command).expect("setpriv is part of util-linux");
    println!("{}", String::from_utf8_lossy(&done.stdout));
    eprint!("{}", String::from_utf8_lossy(&done.stderr));
    done.status.success()
}

/// The same program on a file system whose files share blocks. Mounted in a namespace of its own, so
/// that nothing is left of it.
fn run_on_xfs(filter: &str) -> bool {
    const MOUNT: &str = "truncate -s 1G \"$1\"; mkfs.xfs -q -m reflink=1 \"$1\"; \
                         mount -o loop \"$1\" \"$2\"; shift 2; TMPDIR=$MOUNTED exec \"$@\"";
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (image, mounted) = (folder.path().join("image"), folder.path().join("mounted"));
    std::fs::create_dir(&mounted).expect("it is ours");
    let mut command = process::command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg(MOUNT).arg("sh").arg(&image).arg(&mounted);
    command.arg(std::env::current_exe().expect("a test has a path"));
    command.args([ON_SHARED_BLOCKS, filter]).env("MOUNTED", &mounted);
    let done = process::any_output(&mut command).expect("unshare is part of util-linux");
    println!("{}", String::from_utf8_lossy(&done.stdout));
    eprint!("{}", String::from_utf8_lossy(&done.stderr));
    done.status.success()
}

//! What the tests need beside Rust, and how it comes onto the machine.

use std::path::Path;

use anyhow::{Result, bail};
use kiln_stdx::process;

/// A program that stories start, where it may be found, and the Debian package that has it.
struct Need {
    /// Any of these will do. A path may have one `*`, for a version in the middle.
    programs: &'static [&'static str],
    package: &'static str,
    what_for: &'static str,
}

const NEEDS: &[Need] = &[
    Need { programs: &["git"], package: "git", what_for: "repositories" },
    Need { programs: &["cc"], package: "gcc", what_for: "building SQLite and the sample programs" },
    Need { programs: &["make"], package: "make", what_for: "the sample programs" },
    Need {
        programs: &["postgres", "/usr/lib/postgresql/*/bin/postgres"],
        package: "postgresql",
        what_for: "the store's second database",
    },
    Need { programs: &["chromium"], package: "chromium", what_for: "the pages" },
    Need { programs: &["chromedriver"], package: "chromium-driver", what_for: "the pages" },
    Need {
        programs: &["/bin/busybox", "/usr/bin/busybox"],
        package: "busybox-static",
        what_for: "an image of one static program",
    },
    Need {
        programs: &["newuidmap"],
        package: "uidmap",
        what_for: "containers of an ordinary user with several users",
    },
    Need { programs: &["pasta"], package: "passt", what_for: "networks of jobs with a way out" },
    Need {
        programs: &["docker-registry"],
        package: "docker-registry",
        what_for: "a registry of images",
    },
    Need {
        programs: &["dockerd", "/usr/sbin/dockerd"],
        package: "docker.io",
        what_for: "containers that a daemon makes",
    },
    Need { programs: &["docker"], package: "docker.io", what_for: "asking that daemon" },
    Need { programs: &["skopeo"], package: "skopeo", what_for: "pushing images to it" },
    Need { programs: &["sqlite3"], package: "sqlite3", what_for: "a database from the future" },
    Need {
        programs: &["/usr/sbin/sshd"],
        package: "openssh-server",
        what_for: "jobs that run on another machine",
    },
    Need {
        programs: &["mkfs.xfs", "/usr/sbin/mkfs.xfs"],
        package: "xfsprogs",
        what_for: "a file system whose files share blocks",
    },
    Need {
        programs: &["help2man"],
        package: "help2man",
        what_for: "a manual page of a sample program",
    },
    Need {
        programs: &["makeinfo"],
        package: "texinfo",
        what_for: "the manual of a sample program",
    },
    Need {
        programs: &["dpkg-source"],
        package: "dpkg-dev",
        what_for: "a program nobody here wrote, from Debian's sources",
    },
];

/// Sees to it that everything is there: installs what is missing, or says what to install.
pub fn prepare() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let root = is_root();
    if !(root && found("apt-get")) {
        let mut text = String::from("the tests need programs that this machine does not have:\n");
        for need in &missing {
            text += &format!("  {:<14} for {}\n", need.programs[0], need.what_for);
        }
        let packages = packages.join(" ");
        bail!("{text}on Debian and Ubuntu: sudo apt-get install {packages}");
    }
    eprintln!("installing {}", packages.join(", "));
    apt(&["update", "--quiet=2"])?;
    let mut install = vec!["install", "--quiet=2", "--yes", "--no-install-recommends"];
    install.extend(packages);
    apt(&install)?;
    match self::missing().first() {
        Some(need) => {
            bail!("`{}` is still missing after its package was installed", need.programs[0])
        }
        None => Ok(()),
    }
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !need.programs.iter().any(|program| found(program))).collect()
}

/// Whether a program is in `PATH`, or at a path that may have one `*`.
pub fn found(program: &str) -> bool {
    if let Some((before, after)) = program.split_once('*') {
        let folders = std::fs::read_dir(before).into_iter().flatten().flatten();
        let after = after.trim_start_matches('/');
        return folders.into_iter().any(|folder| folder.path().join(after).is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|process| process.uid() == 0)
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = process::command("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut command)?;
    Ok(())
}

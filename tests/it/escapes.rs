//! What a job tries that wants out: of a sandbox and of a container, of root's kiln and of an ordinary user's.

use std::fs;
use std::net::TcpListener;

use kiln_it::{World, binary, browser, ran};
use kiln_stdx::process;

use crate::containers::{save_image, scratch};

/// Each line tries one thing and says `OUT` when that can be done. What would harm the machine is asked of
/// sandboxes and containers only; what would not shows by a job on the bare host that the questions are right.
const ATTACK: &str = r#"
try() { name=$1; shift; if "$@" > /dev/null 2>&1; then echo "OUT $name"; else echo "held $name"; fi; }
has() { v=$(busybox sed -n 's/CapEff:[[:space:]]*/0x/p' /proc/self/status); test $((v & $1)) -ne 0; }
again() { v=$(busybox cat "$1") && echo "$v" > "$1"; }
sets_clock() { ! busybox date -s "$(busybox date '+%Y-%m-%d %H:%M:%S')" 2>&1 | busybox grep -q 'set date'; }
processes() { test "$(busybox ls /proc | busybox grep -c '^[0-9]')" -gt 12; }
try machine-process busybox ls "/proc/$MACHINE_PID"
try machine-processes processes
try machine-loopback busybox nc -w 1 127.0.0.1 "$MACHINE_PORT" -e true
try secret-in-home busybox cat "$MACHINE_HOME/secret"
try runs-data busybox ls "$MACHINE_DATA/kiln.db"
[ "$1" = host ] && exit 0
mkdir -p m
try mount busybox mount -t tmpfs none m
try bind busybox mount -o bind / m
try remount busybox mount -o remount,rw /
try proc-anew busybox mount -t proc none m
try unmount busybox umount -l /proc/sys
try user-namespace busybox unshare -U true
try mount-namespace busybox unshare -m true
try network-namespace busybox unshare -n true
try process-namespace busybox unshare -p -f true
try enter-mounts busybox nsenter -t 1 -m true
try enter-network busybox nsenter -t 1 -n true
try block-device busybox mknod m/disk b 8 0
try memory-device busybox mknod m/mem c 1 1
try memory busybox dd if=/dev/mem of=/dev/null bs=1 count=1
try kernel-core busybox dd if=/proc/kcore of=/dev/null bs=1 count=1
try kernel-log busybox dmesg
try kernel-message test -c /dev/kmsg
try name-of-machine busybox hostname elsewhere
try clock sets_clock
try core-pattern again /proc/sys/kernel/core_pattern
try forwarding again /proc/sys/net/ipv4/ip_forward
try system-request sh -c 'echo h > /proc/sysrq-trigger'
try groups busybox mkdir /sys/fs/cgroup/out
try groups-of-memory busybox mkdir /sys/fs/cgroup/memory/out
try kernel-writable sh -c 'echo 0 > /sys/kernel/mm/ksm/run'
try root-of-first busybox ls /proc/1/root/
try environment-of-first busybox cat /proc/1/environ
try powers has 0x82b1004
try new-powers busybox grep -q 'NoNewPrivs:[[:space:]]*0' /proc/self/status
try no-filter busybox grep -q 'Seccomp:[[:space:]]*0' /proc/self/status
try priority busybox nice -n -10 true
if [ "$1" = sandbox ]; then
  try machines-programs busybox touch /usr/bin/kiln-was-here
  try machines-settings busybox touch /etc/kiln-was-here
  try passwords busybox grep -q . /etc/shadow
  try daemons-sockets sh -c 'test -n "$(busybox ls -A /run)"'
fi
true
"#;

const MANIFEST: &str = "jobs:
  host: { sandbox: false, steps: [sh attack.sh host] }
  sandbox: { sandbox: true, network: none, steps: [sh attack.sh sandbox] }
  oci: { image: docker-archive:tiny.tar, network: none, steps: [sh attack.sh oci] }
  somebody:
    image: { name: docker-archive:tiny.tar, user: \"USER\" }
    network: none
    directory: open
    steps: [sh ../attack.sh oci]
";

/// Runs the attack as a user of this number, and gives what each job has said.
fn attack(user: Option<u32>) -> Vec<(&'static str, String)> {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port().to_string();
    // Without root there is one user in a container.
    let manifest = MANIFEST.replace("USER", if user.is_some() { "0" } else { "65534" });
    let tree = world.repository_with(
        "work",
        &[(".kiln.yml", manifest.as_str()), ("attack.sh", ATTACK), ("open/file", "")],
    );
    fs::set_permissions(
        tree.path.join("open"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .expect("a folder");
    save_image(&tree.path.join("tiny.tar"), &scratch(&world));
    fs::write(world.at("home/secret"), "x").expect("a home");
    let kiln = world.at("kiln");
    fs::copy(binary::kiln(), &kiln).expect("a program");
    let mut command = match user {
        None => world.command(&kiln),
        Some(user) => {
            let user = user.to_string();
            let mut give = process::command("chown");
            process::output(give.args(["-R", &user]).arg(world.path())).expect("it is root's");
            let mut command = world.command("setpriv");
            command.args(["--clear-groups", "--regid", &user, "--reuid", &user]).arg(&kiln);
            command
        }
    };
    let given = [
        ("MACHINE_PID", std::process::id().to_string()),
        ("MACHINE_PORT", port),
        ("MACHINE_HOME", world.at("home").display().to_string()),
        ("MACHINE_DATA", world.data().join("local").display().to_string()),
    ];
    command.arg("run").current_dir(&tree.path);
    for (name, value) in given {
        command.args(["--env", &format!("{name}={value}")]);
    }
    let said = ran(&mut command).success().said();
    let of = |job: &'static str| {
        let head = format!("{job} | ");
        let lines = said.lines().filter_map(|line| line.strip_prefix(&head));
        (job, lines.map(|line| format!("{line}\n")).collect())
    };
    ["host", "sandbox", "oci", "somebody"].map(of).to_vec()
}

/// Every question was asked, and none was answered by a way out.
#[track_caller]
fn holds(of: &str, said: &str, n_asked: usize) {
    let out: Vec<&str> = said.lines().filter(|line| line.starts_with("OUT ")).collect();
    assert!(out.is_empty(), "{of}: {out:?}");
    assert_eq!(said.matches("held ").count(), n_asked, "{of}: {said}");
}

#[track_caller]
fn nobody_gets_out(user: Option<u32>) {
    let n_asked = ATTACK.lines().filter(|line| line.trim_start().starts_with("try ")).count();
    let of_sandbox = ATTACK.lines().filter(|line| line.starts_with("  try ")).count();
    for (job, said) in attack(user) {
        match job {
            // Else it was not asked what it seems to be.
            "host" => assert_eq!(said.matches("OUT ").count(), 5, "{said}"),
            "sandbox" => holds(job, &said, n_asked),
            _ => holds(job, &said, n_asked - of_sandbox),
        }
    }
    assert!(!fs::exists("/usr/bin/kiln-was-here").unwrap_or(true));
}

#[test]
fn no_job_gets_out_of_a_sandbox_or_a_container() {
    nobody_gets_out(None);
}

#[test]
fn no_job_gets_out_where_kiln_is_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: the other story is this one");
        return;
    }
    browser::needs("setpriv");
    nobody_gets_out(Some(65_534));
}

//! What a step uses: the kernel's account of every process that ends while it runs.
//!
//! Processes that have lost their parent become init's children, and so are counted when they end. In a
//! container they are its stage's, and only a control group knows of them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kiln_model::Usage;

use crate::host::cgroup::Reading;
use crate::host::sys::Used;

/// The kernel's two accounts of bytes: of init with all its children that have ended, and of init.
#[derive(Debug, Default)]
pub(super) struct Gauge(Option<(File, File)>);

/// Bytes that went between memory and storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    read: u64,
    written: u64,
}

impl Gauge {
    /// A kernel without these accounts has none of the two files.
    pub fn open() -> Self {
        let open = |file: &str| File::open(file).ok();
        Self(open("/proc/self/io").zip(open("/proc/thread-self/io")))
    }

    /// Of the children alone.
    fn read(&self) -> Option<Moved> {
        let (all, own) = self.0.as_ref()?;
        let (all, own) = (moved(all)?, moved(own)?);
        let (read, written) =
            (all.read.saturating_sub(own.read), all.written.saturating_sub(own.written));
        Some(Moved { read, written })
    }
}

fn moved(account: &File) -> Option<Moved> {
    let mut bytes = [0; 512];
    let n = account.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes[..n]).ok()?;
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(of, _)| *of == name)?.1.trim().parse().ok()
    };
    Some(Moved { read: value("read_bytes")?, written: value("write_bytes")? })
}

/// The account of a running step.
#[derive(Debug)]
pub(super) struct Meter {
    moved: Option<Moved>,
    /// The session's group as the step began.
    pub group: Reading,
    used: Used,
}

impl Meter {
    pub fn begin(gauge: &Gauge, group: Reading) -> Self {
        Self { moved: gauge.read(), group, used: Used::default() }
    }

    /// A process has ended.
    pub fn add(&mut self, used: &Used) {
        self.used.user_us += used.user_us;
        self.used.system_us += used.system_us;
        self.used.process_bytes = self.used.process_bytes.max(used.process_bytes);
    }

    pub fn end(&self, gauge: &Gauge, group: &Reading) -> Usage {
        let moved = self.moved.zip(gauge.read());
        let cpu = self.group.cpu_us.zip(group.cpu_us);
        let cpu = cpu.map(|(from, to)| (to.0.saturating_sub(from.0), to.1.saturating_sub(from.1)));
        let (user_us, system_us) = cpu.unwrap_or((self.used.user_us, self.used.system_us));
        // A peak that an earlier step has reached says nothing of this one.
        let higher = |from: Option<u64>, to: Option<u64>| to.filter(|to| Some(*to) > from);
        Usage {
            user_us: Some(user_us),
            system_us: Some(system_us),
            memory_bytes: higher(self.group.memory_peak, group.memory_peak),
            process_bytes: Some(self.used.process_bytes).filter(|n_bytes| *n_bytes > 0),
            read_bytes: moved.map(|(from, to)| to.read.saturating_sub(from.read)),
            written_bytes: moved.map(|(from, to)| to.written.saturating_sub(from.written)),
            n_processes: higher(self.group.pids_peak, group.pids_peak),
        }
    }
}

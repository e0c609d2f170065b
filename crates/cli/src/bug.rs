//! What happens when kiln itself is wrong: a panic is said in words, the terminal is given back,
//! and the process ends with 70.

use std::panic::PanicHookInfo;

use crate::output;

pub const HOW_TO_REPORT: &str =
    "this is a bug in kiln; please report it with the lines above and the output of `kiln doctor`";

/// The exit code of a bug.
const EXIT: i32 = 70;
/// Of what the machine lacks.
const EXIT_ELSEWHERE: i32 = 3;

/// The one panic that is not ours: the standard library and the runtime have no other word for it.
const NO_THREAD: &str = "error: this machine gives kiln no further thread: a limit on processes is reached\n\
                         help: raise it (`ulimit -u`, `TasksMax=` of a systemd unit, `--pids-limit` of a container), or \
                         end what else runs as this user\n";

/// Must be called before anything that can panic.
///
/// The process ends, also when only one task of a server panicked: a server that goes on without one
/// of its loops looks alive and does nothing, while one that is started again re-attaches its jobs.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        output::restore_terminal();
        let message = message(info);
        if is_no_thread(&message) {
            output::emergency(NO_THREAD);
            std::process::exit(EXIT_ELSEWHERE);
        }
        output::emergency(&describe(info, &message));
        std::process::exit(EXIT);
    }));
}

fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| info.payload().downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn is_no_thread(message: &str) -> bool {
    ["failed to spawn thread", "can't spawn worker thread"].iter().any(|it| message.contains(it))
}

fn describe(info: &PanicHookInfo<'_>, message: &str) -> String {
    let place = info.location().map_or("an unknown place".to_owned(), ToString::to_string);
    let mut text = format!("error: kiln {} panicked at {place}\n", env!("CARGO_PKG_VERSION"));
    text.push_str(&format!("  cause: {message}\n"));
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        text.push_str(&format!("{}\n", std::backtrace::Backtrace::force_capture()));
    }
    text.push_str(&format!("help: {HOW_TO_REPORT}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_made_is_not_a_bug() {
        for said in [
            "failed to spawn thread: Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }",
            "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
        ] {
            assert!(is_no_thread(said), "{said}");
        }
        assert!(!is_no_thread("index out of bounds: the len is 0 but the index is 0"));
    }
}

//! What happens when kiln itself is wrong: a panic is said in words, the terminal is given back,
//! and the process ends with 70.

use std::panic::PanicHookInfo;

use crate::output;

pub const HOW_TO_REPORT: &str =
    "this is a bug in kiln; please report it with the lines above and the output of `kiln doctor`";

/// The exit code of a bug.
const EXIT: i32 = 70;

/// Must be called before anything that can panic.
///
/// The process ends, also when only one task of a server panicked: a server that goes on without one
/// of its loops looks alive and does nothing, while one that is started again re-attaches its jobs.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        output::restore_terminal();
        output::emergency(&describe(info));
        std::process::exit(EXIT);
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = info
        .payload()
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| info.payload().downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    let place = info.location().map_or("an unknown place".to_owned(), ToString::to_string);
    let mut text = format!("error: kiln {} panicked at {place}\n", env!("CARGO_PKG_VERSION"));
    text.push_str(&format!("  cause: {message}\n"));
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        text.push_str(&format!("{}\n", std::backtrace::Backtrace::force_capture()));
    }
    text.push_str(&format!("help: {HOW_TO_REPORT}\n"));
    text
}

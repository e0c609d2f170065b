//! Giving memory back when there is nothing to do.
//!
//! A program's own machine code is mapped from its file, and the kernel maps 64 KiB around each page
//! that is touched: the start of a large program and one job of work leave nearly all of it
//! resident, most of which is not needed again for hours. It is clean and stays in the page cache,
//! from where it comes back in microseconds when it is called.

#![allow(unsafe_code, reason = "madvise and malloc_trim have no safe interface")]

use std::io;

/// Gives back what a process that falls idle does not need: free memory of the allocator, and mapped
/// machine code. Takes a fraction of a millisecond.
///
/// # Errors
///
/// When the process cannot read what is mapped into it, in which case the code stays mapped.
pub fn give_back() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, n_bytes) in maps.lines().filter_map(machine_code) {
        // SAFETY: a private, file-backed mapping that cannot be written has no content of its own:
        // what is dropped is read from the file again when it is next used.
        unsafe { libc::madvise(start as *mut libc::c_void, n_bytes, libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// Where a line of `maps` says that the machine code of a file is: `start-end r-xp offset dev inode
/// path`. Constants are not meant: the loader has written into some of them and protected them
/// afterwards.
fn machine_code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" || fields.nth(2)? == "0" {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_code_of_files_is_meant() {
        let code = "5563e1200000-5563e1210000 r-xp 00044000 fe:00 1836 /usr/bin/a b";
        assert_eq!(machine_code(code), Some((0x5563_e120_0000, 0x1_0000)));
        for other in [
            "5563e1200000-5563e1210000 r--p 00044000 fe:00 1836 /usr/bin/a",
            "5563e1200000-5563e1210000 rwxp 00044000 fe:00 1836 /usr/bin/a",
            "5563e1200000-5563e1210000 r-xs 00044000 fe:00 1836 /usr/bin/a",
            "7ffd2a1f4000-7ffd2a1f6000 r-xp 00000000 00:00 0 [vdso]",
            "7ffd2a1f4000-7ffd2a1f6000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(machine_code(other), None, "{other}");
        }
    }

    #[test]
    fn a_program_goes_on_after_giving_back_its_code() {
        give_back().unwrap();
        let words: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        assert_eq!(words.concat().len(), 300);
    }
}

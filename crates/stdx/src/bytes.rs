//! Sizes as people read them.

/// `512 B`, `1.4 MB`: decimal units, one decimal, as disks and networks are sold.
pub fn show(n_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n_bytes < 1_000 {
        return format!("{n_bytes} B");
    }
    let mut value = n_bytes as f64 / 1_000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_shown_in_decimal_units() {
        assert_eq!(super::show(999), "999 B");
        assert_eq!(super::show(1_440_000), "1.4 MB");
        assert_eq!(super::show(999_999), "1.0 MB");
    }
}

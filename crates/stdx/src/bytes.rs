//! Sizes as people read and write them.

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

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("a size needs a number and a unit, such as `512MB` or `1.5 GB`")]
    Shape,
    #[error(
        "`{0}` is not a unit of size; use `kB`, `MB`, `GB`, `TB`, or `KiB`, `MiB`, `GiB`, `TiB`"
    )]
    Unit(String),
    #[error("the size is larger than can be")]
    TooLarge,
}

/// Reads `512 MB`, `1.5GB`, `2GiB`, `100B`. Units are decimal (`kB`, `MB`, `GB`, `TB`) or binary (`KiB`,
/// `MiB`, `GiB`, `TiB`), in whatever case. Gives bytes, rounded down.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let number = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = (&text[..number], text[number..].trim());
    let (whole, parts) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(parts) || unit.is_empty() {
        return Err(SizeError::Shape);
    }
    let one: u128 = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(SizeError::Unit(unit.chars().take(20).collect())),
    };
    // Past nine digits a part is less than a byte of the largest unit that anybody has.
    let parts = &parts[..parts.len().min(9)];
    let scale = 10u128.pow(u32::try_from(parts.len()).unwrap_or(9));
    let whole: u128 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let parts: u128 = parts.parse().map_err(|_| SizeError::Shape)?;
    let n_bytes = whole.checked_mul(one).map(|n_bytes| n_bytes + parts * one / scale);
    n_bytes.and_then(|n_bytes| u64::try_from(n_bytes).ok()).ok_or(SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::{SizeError, parse};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, n_bytes) in [
            ("512MB", 512_000_000),
            (" 1.5 GB ", 1_500_000_000),
            ("2GiB", 2 << 30),
            ("2gib", 2 << 30),
            ("0 B", 0),
            ("0.1kb", 100),
            ("1.0000000001TB", 1_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(n_bytes), "{text}");
        }
        for text in ["", "MB", "12", "1.2.3MB", ".5GB", "5.GB", "-1MB", "\u{1}MB"] {
            assert_eq!(parse(text), Err(SizeError::Shape), "{text}");
        }
        for (text, unit) in [("512m", "m"), ("1e3MB", "e3MB")] {
            assert_eq!(parse(text), Err(SizeError::Unit(unit.to_owned())));
        }
        for text in ["99999999999TB", "999999999999999999999999999999999999999999999B"] {
            assert_eq!(parse(text), Err(SizeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_decimal_units() {
        assert_eq!(super::show(999), "999 B");
        assert_eq!(super::show(1_440_000), "1.4 MB");
        assert_eq!(super::show(999_999), "1.0 MB");
    }
}

//! Durations as people write and read them: `90s`, `10m`, `2h30m`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("a duration needs a number and a unit, such as `90s`, `10m` or `2h`")]
    Shape,
    #[error("`{0}` is not a unit of time; use `ms`, `s`, `m`, `h` or `d`")]
    Unit(String),
    #[error("the duration is longer than 1000 days")]
    TooLong,
    #[error("the duration is zero")]
    Zero,
}

const MAX: Duration = Duration::from_secs(1000 * 24 * 3600);

/// Reads `90s`, `1h30m`, `250ms`, `2d`. Units: `ms`, `s`, `m`, `h`, `d`. Never zero.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Shape);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        if digits == 0 || letters == 0 {
            return Err(DurationError::Shape);
        }
        let number: u64 = rest[..digits].parse().map_err(|_| DurationError::TooLong)?;
        let unit_ms = match &rest[digits..digits + letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            other => return Err(DurationError::Unit(other.to_owned())),
        };
        let part = number.checked_mul(unit_ms).ok_or(DurationError::TooLong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or(DurationError::TooLong)?;
        rest = &rest[digits + letters..];
    }
    match total {
        Duration::ZERO => Err(DurationError::Zero),
        total if total > MAX => Err(DurationError::TooLong),
        total => Ok(total),
    }
}

/// Shows a duration at the precision a person wants: `38ms`, `4.2s`, `3m 07s`, `2h 05m`.
pub fn show(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..=999 => format!("{ms}ms"),
        1_000..=59_949 => format!("{:.1}s", span.as_secs_f64()),
        59_950..=3_599_999 => {
            let s = (ms + 500) / 1_000;
            format!("{}m {:02}s", s / 60, s % 60)
        }
        _ => format!("{}h {:02}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("10"), Err(DurationError::Shape));
        assert_eq!(parse("m"), Err(DurationError::Shape));
        assert_eq!(parse("10 m"), Err(DurationError::Shape));
        assert_eq!(parse("10min"), Err(DurationError::Unit("min".into())));
        assert_eq!(parse("0s"), Err(DurationError::Zero));
        assert_eq!(parse("99999999999999999999d"), Err(DurationError::TooLong));
    }

    #[test]
    fn durations_are_shown_at_a_useful_precision() {
        assert_eq!(show(Duration::from_millis(38)), "38ms");
        assert_eq!(show(Duration::from_millis(4210)), "4.2s");
        assert_eq!(show(Duration::from_millis(59_960)), "1m 00s");
        assert_eq!(show(Duration::from_secs(187)), "3m 07s");
        assert_eq!(show(Duration::from_secs(7500)), "2h 05m");
    }
}

//! Points in time as people write them: milliseconds since 1970, or RFC 3339.

/// Milliseconds since 1970 of `1700000000000` or `2013-01-01T10:00:00Z` (fractions and offsets such as `+02:00` too).
pub fn parse_ms(text: &str) -> Option<i64> {
    if let Ok(ms) = text.parse::<i64>() {
        return Some(ms);
    }
    rfc3339_ms(text)
}

/// Milliseconds since 1970 of an RFC 3339 date and time; finer fractions are cut off.
pub fn rfc3339_ms(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (separator, rest) = rest.split_at_checked(1)?;
    let (time, rest) = rest.split_at_checked(8)?;
    let (year, month, day) = three(date, '-')?;
    let (hour, minute, second) = three(time, ':')?;
    let in_range = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !in_range || !["T", "t", " "].contains(&separator) {
        return None;
    }
    let (fraction_ms, zone) = fraction(rest)?;
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - zone_s(zone)?;
    Some(seconds * 1_000 + fraction_ms)
}

/// `2013-01-01T10:00:00.000Z`.
pub fn format_ms(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (of_day / 1_000, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:03}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn digits(text: &str) -> Option<i64> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn three(text: &str, separator: char) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(separator);
    let parsed = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    parts.next().is_none().then_some(parsed)
}

fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(rest) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let shown: String = rest[..end].chars().chain("000".chars()).take(3).collect();
    if end == 0 { None } else { Some((digits(&shown)?, &rest[end..])) }
}

fn zone_s(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn days_of(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Howard Hinnant's `days_from_civil`.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Its inverse, `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        assert_eq!(parse_ms("1357034400000"), Some(1_357_034_400_000));
        assert_eq!(parse_ms("2013-01-01T10:00:00Z"), Some(1_357_034_400_000));
        assert_eq!(parse_ms("2013-01-01T12:00:00.5+02:00"), Some(1_357_034_400_500));
        assert_eq!(parse_ms("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(parse_ms("2024-02-29 00:00:00Z"), Some(1_709_164_800_000));
        for wrong in
            ["", "now", "2013-01-01", "2013-02-29T00:00:00Z", "2013-01-01T24:00:00Z", "2013-01-01T10:00:00", "2013-01-01T10:00:00.Z"]
        {
            assert_eq!(parse_ms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["2013-01-01T10:00:00.000Z", "1969-12-31T23:59:59.999Z", "2024-02-29T00:00:00.120Z", "2100-12-31T23:59:59.000Z"] {
            assert_eq!(format_ms(rfc3339_ms(text).expect("a time")), text);
        }
    }
}

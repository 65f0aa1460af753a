//! Timestamps as text: microseconds since 1970 in UTC to and from `2026-11-20T10:05:00.25Z`.
//!
//! Own code, because a calendar without time zones is forty lines and a dependency is not. The
//! calendar is the proleptic Gregorian one, so that all 64 bits of microseconds have a text.

use std::fmt;

const DAY_SECONDS: i64 = 86_400;
const SECOND_MICROS: i64 = 1_000_000;

/// Days of the 400 years after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// Days from the first of March of year 0, where eras start, to 1970.
const ERA_OFFSET_DAYS: i64 = 719_468;

/// Writes the moment; the fraction has no trailing zeros, years beyond four digits have a sign.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    let (seconds, fraction) = (micros.div_euclid(SECOND_MICROS), micros.rem_euclid(SECOND_MICROS));
    let (year, month, day) = date_of(seconds.div_euclid(DAY_SECONDS));
    match year {
        0..=9999 => write!(f, "{year:04}")?,
        _ => write!(f, "{year:+05}")?,
    }
    let second = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str("Z")
}

/// Reads what [`write()`] writes, with liberties in the time; `None` if it is not that or too far
/// from 1970.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00"),
    };
    let days = parse_date(date)?;
    let micros = parse_time(time)?;
    // In 128 bits: the first moment is negative seconds and a positive fraction.
    let total = i128::from(days) * i128::from(DAY_SECONDS * SECOND_MICROS) + i128::from(micros);
    i64::try_from(total).ok()
}

fn parse_date(text: &str) -> Option<i64> {
    let signed = text.starts_with(['+', '-']);
    let (sign, digits) = if signed { text.split_at(1) } else { ("", text) };
    let mut parts = digits.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let year_fits = if signed { (4..=6).contains(&year.len()) } else { year.len() == 4 };
    if parts.next().is_some() || !year_fits {
        return None;
    }
    let year = number(year)? * if sign == "-" { -1 } else { 1 };
    let (month, day) = (two_digits(month)?, two_digits(day)?);
    let days = days_of(year, month, day);
    // Impossible dates come back as another date.
    (date_of(days) == (year, month, day)).then_some(days)
}

/// Microseconds of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`.
fn parse_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':');
    let (hour, minute) = (two_digits(parts.next()?)?, two_digits(parts.next()?)?);
    let second = parts.next().map_or(Some(0), two_digits)?;
    let fraction_alone = text.contains('.') && (fraction.is_empty() || clock.len() != 8);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 || fraction_alone {
        return None;
    }
    let micros = match fraction.len() {
        0 => 0,
        digits @ 1..=6 => number(fraction)? * 10_i64.pow(6 - u32::try_from(digits).ok()?),
        _ => return None,
    };
    Some(((hour * 60 + minute) * 60 + second) * SECOND_MICROS + micros)
}

fn two_digits(text: &str) -> Option<i64> {
    if text.len() == 2 { number(text) } else { None }
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Year, month and day of a day counted from 1970. Years start in March inside, so that the leap
/// day is the last of its year.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + ERA_OFFSET_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / (ERA_DAYS - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`].
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - ERA_OFFSET_DAYS
}

//! Times as MediaMTX's API writes them, which is Go's: RFC 3339 with up to nine decimals, in any zone.

use mtxfleet_wire::UnixMillis;

/// `None` when the text is no such time, or one before 1970.
pub(crate) fn parse(text: &str) -> Option<UnixMillis> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !bytes.is_ascii() || [bytes[4], bytes[7], bytes[13], bytes[16]] != *b"--::" {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let number = |from: usize, to: usize, least: i64, most: i64| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse::<i64>().ok().filter(|n| (least..=most).contains(n))
    };
    let days = days_since_1970(number(0, 4, 1, 9999)?, number(5, 7, 1, 12)?, number(8, 10, 1, 31)?);
    let seconds_of_day = number(11, 13, 0, 23)? * 3600 + number(14, 16, 0, 59)? * 60 + number(17, 19, 0, 60)?;

    let mut zone = 19;
    let mut millis = 0;
    if bytes[19] == b'.' {
        let decimals = bytes[20..].iter().take_while(|b| b.is_ascii_digit()).count();
        zone = 20 + decimals;
        let padded = bytes[20..zone].iter().copied().chain(std::iter::repeat(b'0'));
        millis = padded.take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    }
    let offset = match bytes.get(zone)? {
        b'Z' | b'z' if bytes.len() == zone + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == zone + 6 && bytes[zone + 3] == b':' => {
            let seconds = number(zone + 1, zone + 3, 0, 23)? * 3600 + number(zone + 4, zone + 6, 0, 59)? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let since_1970 = (days * 86_400 + seconds_of_day - offset) * 1000 + millis;
    u64::try_from(since_1970).ok().map(UnixMillis)
}

/// Of the proleptic Gregorian calendar, by counting years from March, so that a leap day ends a year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_writes_them_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-23T15:22:33.817718012Z", 1_795_447_353_817),
            ("2026-11-23T15:22:33Z", 1_795_447_353_000),
            ("2026-11-23T16:22:33.8+01:00", 1_795_447_353_800),
            ("2026-11-23T09:52:33.81-05:30", 1_795_447_353_810),
            ("2024-02-29T12:00:00Z", 1_709_208_000_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
        ] {
            assert_eq!(parse(text), Some(UnixMillis(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "yesterday",
            "2026-11-23",
            "2026-11-23T15:22:33",
            "2026-11-23T15:22:33.",
            "2026-13-23T15:22:33Z",
            "2026-11-23T25:22:33Z",
            "2026-11-23T15:22:33+0100",
            "2026-11-23T15:22:33Zjunk",
            "1969-12-31T23:59:59Z",
            "+026-11-23T15:22:33Z",
            "2026-11-23T15:22:3\u{fe}Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[0-9TZ:.+ -]{0,40}|\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_later_day_is_a_later_time(year in 1970_i64..9999, month in 1_i64..=12, day in 1_i64..=27) {
            proptest::prop_assert_eq!(days_since_1970(year, month, day) + 1, days_since_1970(year, month, day + 1));
        }
    }
}

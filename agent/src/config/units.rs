//! Texts with a unit: durations, bitrates, sizes. A bare number is never taken, whatever unit one might guess.

use std::time::Duration;

use mtxfleet_wire::Bitrate;

/// `200ms`, `1.5s`, `10m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3_600e3), ("d", 86_400e3)];
    let milliseconds = quantity(text, &units, "5s")?;
    Ok(Duration::from_millis(milliseconds as u64))
}

/// `800Mbit/s`: decimal, as network rates are.
pub(super) fn bitrate(text: &str) -> Result<Bitrate, String> {
    let units = [("bit/s", 1.0), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9)];
    quantity(text, &units, "800Mbit/s").map(|bits| Bitrate(bits as u64))
}

/// Bytes: `5GiB` (1024^3) or `5GB` (1000^3).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (kibi, kilo) = (1024_f64, 1000_f64);
    let units = [
        ("B", 1.0),
        ("KiB", kibi),
        ("MiB", kibi.powi(2)),
        ("GiB", kibi.powi(3)),
        ("TiB", kibi.powi(4)),
        ("kB", kilo),
        ("MB", kilo.powi(2)),
        ("GB", kilo.powi(3)),
        ("TB", kilo.powi(4)),
    ];
    quantity(text, &units, "5GiB").map(|bytes| bytes as u64)
}

fn quantity(text: &str, units: &[(&str, f64)], example: &str) -> Result<f64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit; write for example {example:?}"));
    }
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no number with a unit; write for example {example:?}"))?;
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        return Err(format!("{unit:?} is no unit here; use {}, for example {example:?}", names.join(", ")));
    };
    // 2^53: beyond, a number is no longer exact, and no setting is meant.
    let value = number * factor;
    if value > 9e15 { Err(format!("{text:?} is too large")) } else { Ok(value) }
}

/// The shortest text that [`duration`] reads back: for error messages and the documentation.
pub(crate) fn show_duration(value: Duration) -> String {
    let milliseconds = value.as_millis();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if milliseconds > 0 && milliseconds.is_multiple_of(factor) {
            return format!("{}{unit}", milliseconds / factor);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_need_a_number_and_a_unit_that_fits() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration(" 10 m"), Ok(Duration::from_secs(600)));
        assert_eq!(bitrate("800Mbit/s"), Ok(Bitrate(800_000_000)));
        assert_eq!(size("5GiB"), Ok(5 << 30));
        assert_eq!(duration("5"), Err("\"5\" has no unit; write for example \"5s\"".to_owned()));
        for wrong in ["", "s", "5 parsecs", "-5s", "1.2.3s", "5S", "99999999999999d", "5Mbit/s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(size("5Gbit/s").is_err() && bitrate("5MB").is_err());
    }

    #[test]
    fn a_duration_is_shown_as_it_is_written() {
        for text in ["200ms", "1500ms", "5s", "15m", "2h", "1d", "0ms"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }
}

//! Cron expressions of five fields, as crontab(5) of Vixie cron reads them.

/// Why an expression cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error(
        "{0} fields; write five: minute, hour, day of the month, month, day of the week, as in \"30 18 * * mon-fri\""
    )]
    NotFive(usize),
    #[error("{text:?} is no {field}, which is from {low} to {high}")]
    NotInRange { text: String, field: &'static str, low: u8, high: u8 },
    #[error("no year has such a day")]
    Never,
}

/// What a field can be: its name, range, and words for its values.
struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, words: &[] },
    Field { name: "hour", low: 0, high: 23, words: &[] },
    Field { name: "day of the month", low: 1, high: 31, words: &[] },
    Field { name: "month", low: 1, high: 12, words: &MONTHS },
    // 7 is Sunday, too.
    Field { name: "day of the week", low: 0, high: 7, words: &WEEKDAYS },
];

/// An expression, one bit for each value that a field allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of day are restricted: then either is enough.
    either_day: bool,
}

impl Cron {
    /// # Errors
    /// The first field that cannot be read, or a day that never comes.
    pub fn read(text: &str) -> Result<Self, CronError> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else { return Err(CronError::NotFive(parts.len())) };
        let cron = Self {
            minutes: FIELDS[0].read(minutes)?,
            hours: FIELDS[1].read(hours)?,
            days: FIELDS[2].read(days)?,
            months: FIELDS[3].read(months)?,
            weekdays: FIELDS[4].read(weekdays).map(|bits| (bits | bits >> 7) & 0x7f)?,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        let longest = |month: u8| [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][usize::from(month) - 1];
        let comes =
            (1..=12).any(|month| bit(cron.months, month) && (1..=longest(month)).any(|day| bit(cron.days, day)));
        if comes || cron.either_day { Ok(cron) } else { Err(CronError::Never) }
    }

    /// Whether it names moments on that day; weekdays count from Sunday, 0.
    #[must_use]
    pub fn on_day(&self, month: u8, day: u8, weekday: u8) -> bool {
        let (by_date, by_week) = (bit(self.days, day), bit(self.weekdays, weekday));
        bit(self.months, month) && if self.either_day { by_date || by_week } else { by_date && by_week }
    }

    /// Hours and minutes that it names on its days, the last first.
    pub fn times_backwards(&self) -> impl Iterator<Item = (u8, u8)> {
        let minutes = self.minutes;
        let of_hour = move |hour| (0..60).rev().filter(move |m| bit(minutes, *m)).map(move |m| (hour, m));
        (0..24).rev().filter(|hour| bit(self.hours, *hour)).flat_map(of_hour)
    }
}

fn bit(bits: u64, at: u8) -> bool {
    bits >> at & 1 == 1
}

impl Field {
    /// `*`, `A`, `A-B`, each perhaps with `/STEP`, and lists of them.
    fn read(&self, text: &str) -> Result<u64, CronError> {
        let wrong = || CronError::NotInRange {
            text: text.chars().take(40).collect(),
            field: self.name,
            low: self.low,
            high: self.high,
        };
        let mut bits = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, step.parse::<u8>().ok().filter(|step| *step > 0).ok_or_else(wrong)?),
                None => (part, 1),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.low, self.high),
                Some((first, last)) => (self.value(first).ok_or_else(wrong)?, self.value(last).ok_or_else(wrong)?),
                None => {
                    let first = self.value(range).ok_or_else(wrong)?;
                    (first, if part.contains('/') { self.high } else { first })
                }
            };
            if first > last {
                return Err(wrong());
            }
            bits |= (first..=last).step_by(usize::from(step)).fold(0, |bits, at| bits | 1 << at);
        }
        Ok(bits)
    }

    fn value(&self, text: &str) -> Option<u8> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let value = match word {
            Some(at) => u8::try_from(at).ok()? + self.low,
            None => text.parse().ok()?,
        };
        (self.low..=self.high).contains(&value).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str) -> Vec<(u8, u8)> {
        let mut times: Vec<_> = Cron::read(text).expect(text).times_backwards().collect();
        times.reverse();
        times
    }

    #[test]
    fn fields_are_values_ranges_steps_and_lists() {
        assert_eq!(times("5 7 * * *"), [(7, 5)]);
        assert_eq!(times("*/20 7 * * *"), [(7, 0), (7, 20), (7, 40)]);
        assert_eq!(times("0 8-18/5,23 * * *"), [(8, 0), (13, 0), (18, 0), (23, 0)]);
        assert_eq!(times("50/5 0 * * *"), [(0, 50), (0, 55)]);
        assert_eq!(times("* * * * *").len(), 1_440);
    }

    #[test]
    fn days_are_those_of_the_month_and_of_the_week_and_either_where_both_are_given() {
        let on = |text: &str, month, day, weekday| Cron::read(text).expect(text).on_day(month, day, weekday);
        assert!(on("0 0 * * mon-fri", 3, 9, 1) && !on("0 0 * * mon-fri", 3, 8, 0));
        assert!(on("0 0 * * 7", 3, 8, 0) && on("0 0 * * SUN", 3, 8, 0) && on("0 0 * * 5-7", 3, 8, 0));
        assert!(on("0 0 1 jan,Dec *", 12, 1, 2) && !on("0 0 1 jan,dec *", 11, 1, 2));
        assert!(on("0 0 13 * fri", 3, 13, 1) && on("0 0 13 * fri", 3, 6, 5) && !on("0 0 13 * fri", 3, 7, 6));
        assert!(!on("0 0 */2 * fri", 3, 13, 1), "a star restricts nothing, so both must agree");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for wrong in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "-1 * * * *",
            "1,,2 * * * *",
            "* * * * mo",
            "0 0 30 2 *",
            "* * * * * *",
        ] {
            assert!(Cron::read(wrong).is_err(), "{wrong:?}");
        }
        assert!(Cron::read("0 0 29 2 *").is_ok());
    }
}

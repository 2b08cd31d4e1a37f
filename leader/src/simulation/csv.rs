//! A trace from what an operator measured: a table of the whole cluster's load over time.

use std::ops::Range;
use std::time::Duration;

use mtxfleet_wire::UnixMillis;

use super::trace::{Column, MONDAY, STEP, Series, Trace};

/// A year, so that a wrong column cannot take all memory.
const MOST_STEPS: usize = 366 * 24 * 720;

/// Seconds that are more than this are taken for Unix time.
const UNIX: f64 = 1e9;

/// Why a CSV is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: {text:?} is not a time and a figure for each column; write for example \"60,120\"")]
    NotNumbers { line: usize, text: String },
    #[error("line {line}: its time is not later than the one before; sort the lines by time")]
    NotLater { line: usize },
    #[error(
        "the heading's {0:?} is no column; after the time there can be readers (or viewers, cameras), bandwidth (or \
         outbound, inbound), cpu"
    )]
    UnknownColumn(String),
    #[error("column {0} is there twice")]
    Twice(Column),
    #[error("column {0} has no figure at all")]
    Empty(Column),
    #[error("there is no column of readers or cameras")]
    NoReaders,
    #[error("a trace needs two lines at least")]
    TooShort,
    #[error("longer than a year; the first column is seconds")]
    TooLong,
}

impl Trace {
    /// Lines of `SECONDS,READERS,BANDWIDTH,CPU`, times rising, the last two columns if they are there; a heading names the
    /// columns in another order. Between two lines a figure goes straight from one to the other. A blank is unknown until
    /// the next line: the world goes on, those who decide do not see it.
    ///
    /// # Errors
    /// The first thing that cannot be read.
    pub fn from_csv(text: &str) -> Result<Self, TraceError> {
        let mut columns: Option<Vec<Column>> = None;
        let mut rows: Vec<(f64, Vec<Option<f64>>)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let cells: Vec<&str> = line.split(',').map(str::trim).collect();
            let is_heading = cells[0].starts_with(|c: char| c.is_ascii_alphabetic());
            if columns.is_none() && rows.is_empty() && is_heading {
                columns = Some(heading(&cells[1..])?);
                continue;
            }
            let wide = columns.get_or_insert_with(|| Column::ALL[..(cells.len() - 1).clamp(1, 3)].to_vec()).len();
            let row = row(&cells).filter(|(_, figures)| figures.len() == wide);
            let wrong = || TraceError::NotNumbers { line: at + 1, text: line.chars().take(80).collect() };
            let row = row.ok_or_else(wrong)?;
            if rows.last().is_some_and(|last| row.0 <= last.0) {
                return Err(TraceError::NotLater { line: at + 1 });
            }
            rows.push(row);
        }
        let (Some(columns), true) = (columns, rows.len() >= 2) else { return Err(TraceError::TooShort) };
        let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
        if (last - first) / STEP.as_secs_f64() > MOST_STEPS as f64 {
            return Err(TraceError::TooLong);
        }
        let series = |wanted: Column| {
            let at = columns.iter().position(|column| *column == wanted)?;
            Some(column(&rows, at).ok_or(TraceError::Empty(wanted)))
        };
        let start = if first >= UNIX { UnixMillis((first * 1e3) as u64) } else { after(MONDAY, first) };
        Ok(Self {
            step: STEP,
            start,
            readers: series(Column::Readers).ok_or(TraceError::NoReaders)??,
            bandwidth: series(Column::Bandwidth).transpose()?,
            cpu: series(Column::Cpu).transpose()?,
        })
    }
}

fn after(start: UnixMillis, seconds: f64) -> UnixMillis {
    UnixMillis(start.0 + Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis() as u64)
}

fn heading(names: &[&str]) -> Result<Vec<Column>, TraceError> {
    let mut columns = Vec::new();
    for name in names {
        let column = match name.to_ascii_lowercase().as_str() {
            "readers" | "viewers" | "cameras" => Column::Readers,
            "bandwidth" | "outbound" | "inbound" => Column::Bandwidth,
            "cpu" => Column::Cpu,
            _ => return Err(TraceError::UnknownColumn((*name).chars().take(40).collect())),
        };
        if columns.contains(&column) {
            return Err(TraceError::Twice(column));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn row(cells: &[&str]) -> Option<(f64, Vec<Option<f64>>)> {
    let time: f64 = cells[0].parse().ok().filter(|time: &f64| time.is_finite() && *time >= 0.0)?;
    let figure = |cell: &&str| match *cell {
        "" => Some(None),
        text => text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0).map(Some),
    };
    Some((time, cells[1..].iter().map(figure).collect::<Option<_>>()?))
}

/// `None` when no line has a figure.
fn column(rows: &[(f64, Vec<Option<f64>>)], at: usize) -> Option<Series> {
    let known: Vec<(f64, f64)> = rows.iter().filter_map(|(time, row)| Some((*time, row[at]?))).collect();
    let (start, end) = (rows[0].0, rows[rows.len() - 1].0);
    let step = |time: f64| ((time - start) / STEP.as_secs_f64()).ceil() as usize;
    let steps = ((end - start) / STEP.as_secs_f64()) as usize;
    let first = known.first()?;
    let mut next = 0;
    let figure = |at: usize| {
        let time = start + at as f64 * STEP.as_secs_f64();
        while next < known.len() && known[next].0 < time {
            next += 1;
        }
        match (next.checked_sub(1).map(|before| known[before]), known.get(next)) {
            (Some((t0, r0)), Some((t1, r1))) => r0 + (r1 - r0) * ((time - t0) / (t1 - t0)),
            (Some((_, value)), None) | (None, Some(&(_, value))) => value,
            (None, None) => first.1,
        }
    };
    let values = (0..=steps).map(figure).collect();
    let ends = rows.iter().skip(1).map(|(time, _)| step(*time)).chain([steps + 1]);
    let blank = |((time, row), end): (&(f64, Vec<Option<f64>>), usize)| row[at].is_none().then(|| step(*time)..end);
    let unknown: Vec<Range<usize>> = rows.iter().zip(ends).filter_map(blank).collect();
    Some(Series { values, unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_is_read_straight_between_its_lines() {
        let trace = Trace::from_csv("time,readers\n0,100\n# a comment\n10,200\n20,200\n").expect("good");
        assert_eq!(trace.readers.values, [100.0, 150.0, 200.0, 200.0, 200.0]);
        assert_eq!((trace.start, trace.bandwidth, trace.cpu), (MONDAY, None, None));
        let unix = Trace::from_csv("1767571200,1,5e6,0.5\n1767571210,2,5e6,0.7\n").expect("good");
        assert_eq!((unix.start, unix.readers.values.len()), (MONDAY, 3));
        assert_eq!(unix.bandwidth.expect("there").values, [5e6; 3]);
        let ordered = Trace::from_csv("t,cpu,cameras\n0,1,2\n5,1,3\n").expect("good");
        assert_eq!((ordered.readers.values, ordered.cpu.expect("there").values), (vec![2.0, 3.0], vec![1.0, 1.0]));
    }

    #[test]
    fn a_blank_is_unknown_until_the_next_line_and_the_world_goes_on() {
        let trace = Trace::from_csv("0,,1\n10,100,\n20,,1\n30,300,1\n40,,1\n").expect("good");
        let readers = trace.readers;
        assert_eq!(readers.values, [100.0, 100.0, 100.0, 150.0, 200.0, 250.0, 300.0, 300.0, 300.0]);
        assert_eq!(readers.unknown, [0..2, 4..6, 8..9]);
        assert_eq!(trace.bandwidth.expect("there").unknown.first(), Some(&(2..4)));
    }

    #[test]
    fn what_is_no_trace_is_refused_with_the_line() {
        let wrong = |text| Trace::from_csv(text).expect_err(text);
        assert_eq!(wrong("0,1\nx,2"), TraceError::NotNumbers { line: 2, text: "x,2".into() });
        assert_eq!(wrong("0,1\n5,-2"), TraceError::NotNumbers { line: 2, text: "5,-2".into() });
        assert_eq!(wrong("0,1\n5,2,3"), TraceError::NotNumbers { line: 2, text: "5,2,3".into() });
        assert_eq!(wrong("0,1\n0,2"), TraceError::NotLater { line: 2 });
        assert_eq!(wrong("0,1"), TraceError::TooShort);
        assert_eq!(wrong(""), TraceError::TooShort);
        assert_eq!(wrong("0,1\n1e12,2"), TraceError::TooLong);
        assert_eq!(wrong("t,readers,cpu\n0,1,\n5,1,"), TraceError::Empty(Column::Cpu));
        assert_eq!(wrong("t,cpu\n0,1\n5,1"), TraceError::NoReaders);
        assert_eq!(wrong("t,readers,viewers\n"), TraceError::Twice(Column::Readers));
        assert_eq!(wrong("t,readers,disk\n"), TraceError::UnknownColumn("disk".into()));
        assert!(matches!(wrong("0,NaN\n5,1"), TraceError::NotNumbers { line: 1, .. }));
    }
}

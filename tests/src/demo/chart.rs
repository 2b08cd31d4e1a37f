//! A small chart for the terminal: nodes and readers over the day.

use super::day::Look;

/// Columns, three to an hour.
const WIDTH: usize = 72;

const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn print(looks: &[Look], max: u32) {
    println!("\nNodes over the day (█ paid for, of {max} at most), and readers\n");
    for line in lines(looks) {
        println!("{line}");
    }
}

/// The chart's lines, the top one first.
fn lines(looks: &[Look]) -> Vec<String> {
    let columns = columns(looks);
    let top = columns.iter().map(|look| look.paid).max().unwrap_or(0);
    let most = columns.iter().map(|look| look.readers).max().unwrap_or(0).max(1);
    let row = |row: u32| {
        let cells: String = columns.iter().map(|look| if look.paid >= row { '█' } else { ' ' }).collect();
        format!("  {row:>2} nodes |{cells}|")
    };
    let mut lines: Vec<String> = (1..=top).rev().map(row).collect();
    let readers: String = columns.iter().map(|look| EIGHTHS[(look.readers * 8).div_ceil(most) as usize]).collect();
    lines.push(format!("  readers  |{readers}| {most} at most"));
    lines.push(format!("            {:<18}{:<18}{:<18}{:<12}24 h", 0, 6, 12, 18));
    lines
}

/// One look for each column: the one with the most nodes in its twenty minutes, or else the one before.
fn columns(looks: &[Look]) -> Vec<Look> {
    let mut columns = Vec::with_capacity(WIDTH);
    let mut last = looks.first().copied();
    for column in 0..WIDTH {
        let here = |look: &&Look| (look.hour / 24.0 * WIDTH as f64) as usize == column;
        last = looks.iter().filter(here).max_by_key(|look| look.paid).copied().or(last);
        columns.extend(last);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_high_as_its_nodes_and_the_readers_stand_below() {
        let look = |hour: f64, paid, readers| Look { hour, readers, paid, serving: paid };
        let drawn = lines(&[look(0.0, 2, 4), look(12.0, 3, 40), look(18.0, 2, 8)]);
        assert_eq!(drawn.len(), 5, "{drawn:#?}");
        let filled = |line: &str| line.matches('█').count();
        assert_eq!(filled(&drawn[0]), 18, "three nodes for a quarter of the day: {drawn:#?}");
        assert_eq!(filled(&drawn[1]), WIDTH);
        assert!(drawn[3].contains('▁') && drawn[3].contains('█') && drawn[3].ends_with("40 at most"), "{drawn:#?}");
    }

    #[test]
    fn nothing_seen_draws_nothing() {
        assert_eq!(columns(&[]).len(), 0);
        assert_eq!(lines(&[]).len(), 2);
    }
}

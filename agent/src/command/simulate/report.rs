//! What a simulation came to, as tables and as JSON.

use mtxfleet_leader::simulation::frontier::{Frontier, Point};
use mtxfleet_leader::simulation::{Outcome, World};
use serde_json::json;

use crate::command::table::Table;
use crate::config::units;

/// Shares of viewer-seconds over capacity at which frontiers are compared.
const LEVELS: [f64; 3] = [0.001, 0.0005, 0.0001];

/// Dearer than its peer by less than this is the grid of the sweep, and no difference.
const EQUAL: f64 = 0.0015;

#[derive(Debug)]
pub(super) struct Report<'a> {
    /// Which load it was.
    pub what: &'a str,
    /// What it is counted in.
    pub unit: &'static str,
    pub peak: f64,
    pub world: &'a World,
    /// Money an hour of a node costs.
    pub price: f64,
    /// The policy first, the clairvoyant last.
    pub rows: &'a [(String, Outcome)],
    pub frontiers: &'a [Frontier],
}

impl Report<'_> {
    fn node_hours(&self, named: &str) -> f64 {
        self.rows.iter().find(|row| row.0.starts_with(named)).map_or(0.0, |row| row.1.node_hours)
    }

    pub(super) fn text(&self) -> String {
        let World { per_node, lead, .. } = self.world;
        let mut text = format!(
            "{}, peak {:.0}; {per_node} {} a node, lead {}\n\n{}",
            self.what,
            self.peak,
            self.unit,
            units::show_duration(*lead),
            self.rules()
        );
        if let [own, .., _] = self.frontiers {
            text += &format!("\nCost at equal service, in times the clairvoyant's node-hours:\n\n{}", self.levels());
            for peer in self.frontiers.iter().filter(|peer| peer.setting != own.setting) {
                text += &format!("\n{}", against(own, peer));
            }
            text += &format!("\n\nThe points swept:\n\n{}", self.points());
        }
        text
    }

    fn rules(&self) -> Table {
        let (bound, fixed) = (self.node_hours("clairvoyant"), self.node_hours("fixed"));
        let mut table = Table::new(&[
            "RULE",
            "NODE-HOURS",
            "COST",
            "X CLAIRVOYANT",
            "SAVED AGAINST FIXED",
            "OVER CAPACITY",
            "VIEWER-S OVER",
            "LAUNCHES",
            "DRAINS",
            "CANCELLED",
            "MOVED",
        ]);
        for (name, outcome) in self.rows {
            let saved = fixed - outcome.node_hours;
            table.row(vec![
                name.clone(),
                format!("{:.0}", outcome.node_hours),
                format!("{:.0}", outcome.node_hours * self.price),
                format!("{:.2}", outcome.node_hours / bound),
                format!("{:.0} ({:.0} %)", saved * self.price, saved / fixed * 100.0),
                format!("{:.1} min", outcome.over_seconds / 60.0),
                format!("{:.4} %", outcome.over_share() * 100.0),
                outcome.launches.to_string(),
                outcome.drains.to_string(),
                outcome.cancelled.to_string(),
                format!("{:.0}", outcome.moved),
            ]);
        }
        table
    }

    fn levels(&self) -> Table {
        let heading = LEVELS.map(|level| format!("AT {} % OVER", level * 100.0));
        let mut table = Table::new(&["RULE", &heading[0], &heading[1], &heading[2]]);
        for frontier in self.frontiers {
            let cell = |level: f64| match frontier.at(level) {
                Some(point) => format!("{:.2} ({} {:.2})", point.cost, frontier.setting, point.setting),
                None => "not within what was swept".to_owned(),
            };
            table.row(std::iter::once(frontier.name.to_owned()).chain(LEVELS.map(cell)).collect());
        }
        table
    }

    fn points(&self) -> Table {
        let mut table = Table::new(&["RULE", "SETTING", "X CLAIRVOYANT", "VIEWER-S OVER"]);
        for frontier in self.frontiers {
            for point in &frontier.points {
                table.row(vec![
                    frontier.name.to_owned(),
                    format!("{} {}", frontier.setting, point.setting),
                    format!("{:.3}", point.cost),
                    format!("{:.4} %", point.over * 100.0),
                ]);
            }
        }
        table
    }

    /// # Errors
    /// None that is known: every figure is a number.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let (bound, fixed) = (self.node_hours("clairvoyant"), self.node_hours("fixed"));
        let rule = |(name, outcome): &(String, Outcome)| {
            json!({
                "rule": name,
                "node_hours": outcome.node_hours,
                "cost": outcome.node_hours * self.price,
                "times_clairvoyant": outcome.node_hours / bound,
                "saved_against_fixed": (fixed - outcome.node_hours) * self.price,
                "over_capacity_s": outcome.over_seconds,
                "viewer_s": outcome.viewer_seconds,
                "viewer_s_over": outcome.over_viewer_seconds,
                "over_share": outcome.over_share(),
                "launches": outcome.launches,
                "drains": outcome.drains,
                "cancelled": outcome.cancelled,
                "moved": outcome.moved,
            })
        };
        let point = |point: &Point| json!({ "setting": point.setting, "cost": point.cost, "over": point.over });
        let frontier = |frontier: &Frontier| {
            let points: Vec<_> = frontier.points.iter().map(point).collect();
            json!({ "rule": frontier.name, "setting": frontier.setting, "points": points })
        };
        let report = json!({
            "load": self.what,
            "unit": self.unit,
            "peak": self.peak,
            "lead_s": self.world.lead.as_secs_f64(),
            "price": self.price,
            "rules": self.rows.iter().map(rule).collect::<Vec<_>>(),
            "frontiers": self.frontiers.iter().map(frontier).collect::<Vec<_>>(),
        });
        serde_json::to_string_pretty(&report)
    }
}

/// How often a rule is cheaper than its peer at the peer's own points, and where it is worst.
fn against(own: &Frontier, peer: &Frontier) -> String {
    let points = own.against(peer);
    let Some(worst) = points.iter().max_by(|a, b| a.cost.total_cmp(&b.cost)) else {
        return format!("{} has no point that both reach.", peer.name);
    };
    let cheaper = points.iter().filter(|point| point.cost < 1.0).count();
    let dearer = points.iter().filter(|point| point.cost > 1.0 + EQUAL).count();
    format!(
        "At the {} points that both reach, those of {} and its own, {} is cheaper at {cheaper}, dearer by more than {:.2} % at {dearer}; \
         at worst {:.3} times its cost, at {:.5} % over.",
        points.len(),
        peer.name,
        own.name,
        EQUAL * 100.0,
        worst.cost,
        worst.over * 100.0
    )
}

/// One line a seed follows.
pub(super) fn seeds() -> Table {
    Table::new(&["SEED", "AT 0.05 % OVER", "HPA", "AT 0.01 % OVER", "HPA", "POINTS", "CHEAPER", "WORST", "AT OVER"])
}

pub(super) fn seed(table: &mut Table, seed: u64, own: &Frontier, hpa: &Frontier) {
    let at =
        |frontier: &Frontier, level| frontier.at(level).map_or_else(|| "-".to_owned(), |p| format!("{:.2}", p.cost));
    let points = own.against(hpa);
    let worst = points.iter().max_by(|a, b| a.cost.total_cmp(&b.cost));
    table.row(vec![
        seed.to_string(),
        at(own, LEVELS[1]),
        at(hpa, LEVELS[1]),
        at(own, LEVELS[2]),
        at(hpa, LEVELS[2]),
        points.len().to_string(),
        points.iter().filter(|point| point.cost < 1.0).count().to_string(),
        worst.map_or_else(String::new, |point| format!("{:.3}", point.cost)),
        worst.map_or_else(String::new, |point| format!("{:.5} %", point.over * 100.0)),
    ]);
}

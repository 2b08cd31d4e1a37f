//! `mtxfleet decisions`: what the orchestrators decided and why, "nothing" too.

use std::collections::BTreeSet;
use std::time::Duration;

use mtxfleet_wire::{
    DecisionEffect, DecisionView, NodeId, OrchestratorView, OutcomeView, PlannedDrain, Role, StandingView, UnixMillis,
};

use super::api::{Access, Api};
use super::output::say;
use super::table::Table;

/// Between two looks of `--follow`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Decisions {
    /// Of one orchestrator only.
    #[arg(long, value_parser = super::control::role())]
    role: Option<Role>,
    /// At most so many of each orchestrator, the newest.
    #[arg(long, default_value_t = 20)]
    last: usize,
    /// Stay, and show each new one as it is made.
    #[arg(long)]
    follow: bool,
    /// The API's JSON instead of a table; with --follow, one decision a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

/// Tells one decision from another.
type Key = (Option<u64>, NodeId, u64);

fn key(view: &DecisionView) -> Key {
    (view.epoch, view.by.clone(), view.number)
}

impl Decisions {
    pub async fn run(self) -> anyhow::Result<()> {
        let api = Api::new(&self.access)?;
        let (orchestrators, shown) = self.look(&api).await?;
        if self.json && !self.follow {
            return say(serde_json::to_string_pretty(&shown)? + "\n");
        }
        if self.json {
            self.say_each(&shown)?;
        } else {
            say(render(&orchestrators, &shown))?;
        }
        if self.follow { self.go_on(&api, &shown).await } else { Ok(()) }
    }

    /// Shows each new one, until it is stopped.
    async fn go_on(&self, api: &Api, shown: &[DecisionView]) -> anyhow::Result<()> {
        let mut known: BTreeSet<Key> = shown.iter().map(key).collect();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // An agent that is restarted is there again in a moment.
            let Ok((_, decisions)) = self.look(api).await else { continue };
            let new: Vec<DecisionView> = decisions.iter().filter(|view| !known.contains(&key(view))).cloned().collect();
            known.extend(new.iter().map(key));
            if self.json {
                self.say_each(&new)?;
            } else if !new.is_empty() {
                say(table(&new, false))?;
            }
        }
    }

    fn say_each(&self, decisions: &[DecisionView]) -> anyhow::Result<()> {
        decisions.iter().try_for_each(|view| say(serde_json::to_string(view)? + "\n"))
    }

    /// An orchestrator knows more of its own decisions than the others do, so it is asked itself where it answers.
    async fn look(&self, api: &Api) -> anyhow::Result<(Vec<OrchestratorView>, Vec<DecisionView>)> {
        let mut orchestrators = api.orchestrators().await?;
        orchestrators.retain(|view| self.role.is_none_or(|role| role == view.role));
        let mut all = Vec::new();
        for view in &orchestrators {
            let mut of_role = None;
            if let Some(leader) = view.leader.as_ref().filter(|_| view.standing != StandingView::Acting)
                && let Ok(its_own) = api.of_node(Some(leader)).await
            {
                of_role = its_own.decisions(Some(view.role)).await.ok();
            }
            let mut of_role = match of_role {
                Some(decisions) => decisions,
                None => api.decisions(Some(view.role)).await?,
            };
            all.extend(of_role.drain(of_role.len().saturating_sub(self.last)..));
        }
        all.sort_by_key(|view| view.last);
        Ok((orchestrators, all))
    }
}

fn render(orchestrators: &[OrchestratorView], decisions: &[DecisionView]) -> String {
    let mut text: String = orchestrators.iter().map(heading).collect();
    text.push('\n');
    text + &table(decisions, true)
}

/// Who decides, and what it wants.
fn heading(view: &OrchestratorView) -> String {
    let who = match (&view.leader, view.epoch) {
        (Some(leader), Some(epoch)) => format!("{leader} orchestrates, in term {epoch}"),
        (Some(leader), None) => format!("{leader} lets the cluster grow while Redis is away"),
        (None, _) if view.why.is_empty() => "nobody orchestrates".to_owned(),
        (None, _) => format!("nobody orchestrates, as far as this agent knows ({})", view.why),
    };
    let dry = if view.dry_run { "; a dry run: nothing is done" } else { "" };
    let paused = view.paused.as_ref().map(|control| {
        let why = if control.why.is_empty() { String::new() } else { format!(" ({})", control.why) };
        format!("; paused through {}{why}", control.by)
    });
    let plan = view.plan.as_ref().map(|plan| {
        let drains = if plan.drains.is_empty() { String::new() } else { format!(", drains {}", named(&plan.drains)) };
        format!("; plan {}: {} node(s){drains}", plan.id, plan.size)
    });
    format!("{}: {who}{dry}{}{}\n", view.role, paused.unwrap_or_default(), plan.unwrap_or_default())
}

fn table(decisions: &[DecisionView], with_heading: bool) -> String {
    let mut table = if with_heading {
        Table::new(&["TIME (UTC)", "ROLE", "OUTCOME", "RULE", "NODES", "WANTED", "WHY"])
    } else {
        Table::headless()
    };
    for view in decisions {
        table.row(row(view));
    }
    if decisions.is_empty() { format!("{table}(none yet)\n") } else { table.to_string() }
}

fn row(view: &DecisionView) -> Vec<String> {
    let outcome = match view.outcome {
        OutcomeView::Nothing => "nothing".to_owned(),
        OutcomeView::Grow { cancel: 0, launch } => format!("grow by {launch}"),
        OutcomeView::Grow { cancel, launch: 0 } => format!("cancel {cancel} drain(s)"),
        OutcomeView::Grow { cancel, launch } => format!("cancel {cancel} drain(s), grow by {launch}"),
        OutcomeView::Shrink { drain } => format!("drain {drain}"),
    };
    let only = match view.effect {
        DecisionEffect::Live => "",
        DecisionEffect::DryRun => " (dry run)",
        DecisionEffect::Paused => " (paused)",
        DecisionEffect::GrowOnly => " (no Redis)",
    };
    let seen = &view.inputs;
    let apart = [("launching", seen.launching), ("draining", seen.draining), ("unhealthy", seen.unhealthy)];
    let apart = apart.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!(", {count} {what}"));
    let mut why = view.reasons.join("; ");
    if !view.victims.is_empty() {
        why = format!("{}; {why}", named(&view.victims));
    }
    if view.count > 1 {
        why = format!("{why} [{} times since {}]", view.count, clock(view.first));
    }
    vec![
        clock(view.last),
        view.role.to_string(),
        format!("{outcome}{only}"),
        view.rule.clone(),
        format!("{} serving{}", seen.serving, apart.collect::<String>()),
        view.wanted.to_string(),
        why,
    ]
}

fn named(drains: &[PlannedDrain]) -> String {
    drains.iter().map(|drain| format!("{} ({})", drain.node, drain.why)).collect::<Vec<_>>().join(", ")
}

/// `18:20:01`.
fn clock(at: UnixMillis) -> String {
    let seconds = at.0 / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::{Control, InputsView, PlanId, PlanView};

    use super::*;

    fn decision() -> DecisionView {
        DecisionView {
            role: Role::Distribution,
            by: NodeId::new("dist-2").expect("valid"),
            epoch: Some(7),
            number: 4,
            first: UnixMillis(3_600_000),
            last: UnixMillis(3_661_000),
            count: 122,
            effect: DecisionEffect::Live,
            outcome: OutcomeView::Nothing,
            rule: "window".into(),
            wanted: 2,
            inputs: InputsView { serving: 4, draining: 1, ..InputsView::default() },
            reasons: vec!["the window down lasts 539 s yet".into(), "12 readers ask for 1 node(s)".into()],
            victims: Vec::new(),
        }
    }

    #[test]
    fn a_table_says_why_nothing_is_done_and_for_how_long_already() {
        let victims = vec![PlannedDrain { node: decision().by, why: "the fewest have to move: 2".into() }];
        let shrink = DecisionView {
            outcome: OutcomeView::Shrink { drain: 1 },
            effect: DecisionEffect::DryRun,
            rule: "load".into(),
            count: 1,
            victims,
            ..decision()
        };
        let expected = "\
TIME (UTC)  ROLE          OUTCOME            RULE    NODES                  WANTED  WHY
01:01:01    distribution  nothing            window  4 serving, 1 draining  2       the window down lasts 539 s yet; 12 readers ask for 1 node(s) [122 times since 01:00:00]
01:01:01    distribution  drain 1 (dry run)  load    4 serving, 1 draining  2       dist-2 (the fewest have to move: 2); the window down lasts 539 s yet; 12 readers ask for 1 node(s)
";
        assert_eq!(table(&[decision(), shrink], true), expected);
        assert!(table(&[], true).contains("none yet"));
    }

    #[test]
    fn a_heading_names_who_decides_what_it_wants_and_what_holds_it_up() {
        let mut view = OrchestratorView {
            role: Role::Distribution,
            leader: Some(decision().by),
            epoch: Some(7),
            standing: StandingView::Following,
            why: String::new(),
            dry_run: false,
            paused: None,
            plan: Some(PlanView {
                id: PlanId { epoch: 7, number: 3 },
                size: 3,
                drains: vec![PlannedDrain { node: decision().by, why: "it is not healthy".into() }],
                takers: Vec::new(),
                rule: "load".into(),
                reasons: Vec::new(),
            }),
            decisions: Vec::new(),
        };
        let text =
            "distribution: dist-2 orchestrates, in term 7; plan 7.3: 3 node(s), drains dist-2 (it is not healthy)\n";
        assert_eq!(heading(&view), text);
        view.plan = None;
        view.dry_run = true;
        view.paused = Some(Control {
            role: Role::Distribution,
            paused: true,
            version: 1,
            by: decision().by,
            why: "load test".into(),
            at: UnixMillis(0),
        });
        let text = "distribution: dist-2 orchestrates, in term 7; a dry run: nothing is done; paused through dist-2 (load test)\n";
        assert_eq!(heading(&view), text);
        view = OrchestratorView { leader: None, epoch: None, dry_run: false, paused: None, ..view };
        assert_eq!(heading(&view), "distribution: nobody orchestrates\n");
    }
}

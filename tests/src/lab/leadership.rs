//! Who orchestrates, as the agents themselves say, and how long a change takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mtxfleet_wire::{NodeId, OrchestratorView, Role, StandingView};

use super::Lab;
use super::agent::Api;
use super::node::{Node, Settings};
use super::wait::wait_for;

/// Nodes stand for election and decide, and do nothing of it.
#[must_use]
pub fn settings() -> Settings {
    Settings { more: "[orchestrator]\nenabled = true\ndry_run = true\n".to_owned(), ..Settings::default() }
}

/// One that does not answer in this time is frozen or dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// An orchestrator, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeId,
    pub epoch: u64,
}

/// What this node's own agent says of a role.
///
/// # Errors
/// When it does not answer in time.
pub async fn view(node: &Node, role: Role) -> Result<OrchestratorView> {
    let views =
        tokio::time::timeout(ANSWER_WITHIN, node.agent.orchestrators()).await.context("no answer in time")??;
    views.into_iter().find(|view| view.role == role).with_context(|| format!("{} says nothing of {role}", node.id))
}

/// All nodes of the role that say they act. Those that do not answer are passed over.
pub async fn acting(lab: &Lab, role: Role) -> Vec<Leader> {
    let mut leaders = Vec::new();
    for node in lab.of_role(role) {
        if let Ok(view) = view(node, role).await
            && view.standing == StandingView::Acting
            && let Some(epoch) = view.epoch
        {
            leaders.push(Leader { node: node.id.clone(), epoch });
        }
    }
    leaders
}

/// Waits until the reasons of a decision have this in them: one of those that `mtxfleet decisions` shows, which asks the
/// orchestrator itself. Gives that reason.
///
/// # Errors
/// When none has in time.
pub async fn wait_reason(lab: &Lab, role: Role, part: &str, bound: Duration) -> Result<String> {
    let seen_by = &lab.of_role(Role::Ingestion).next().context("the lab has no ingestion node")?.agent;
    wait_for(format!("a decision that says {part:?}"), bound, async || -> Result<String> {
        let leader = seen_by.orchestrator(role).await?.leader.context("nobody leads")?;
        let member = seen_by.fleet().await?.members.into_iter().find(|member| member.node == leader);
        let facts = member.and_then(|member| member.facts).with_context(|| format!("{leader} is not known"))?;
        let leader = Api { node: leader, url: facts.http, token: lab.token.clone() };
        let decisions = leader.decisions(role).await?;
        let said = decisions.iter().flat_map(|decision| &decision.reasons).find(|reason| reason.contains(part));
        said.cloned().with_context(|| format!("{:#?}", decisions.iter().map(|d| &d.reasons).collect::<Vec<_>>()))
    })
    .await
}

/// Waits until one node acts, another than `before`, and gives how long that took.
///
/// # Errors
/// When nobody does in time, two do at once, or the epoch has not risen.
pub async fn wait_leader(
    lab: &Lab,
    role: Role,
    before: Option<&Leader>,
    bound: Duration,
) -> Result<(Leader, Duration)> {
    let began = Instant::now();
    let what = format!("an orchestrator of {role} other than {before:?}");
    let leader = wait_for(what, bound, async || -> Result<Leader> {
        let mut leaders = acting(lab, role).await;
        leaders.retain(|leader| before.is_none_or(|before| before.node != leader.node));
        match leaders.pop() {
            Some(leader) if leaders.is_empty() => Ok(leader),
            Some(leader) => bail!("two act: {leader:?} and {leaders:?}"),
            None => bail!("nobody acts"),
        }
    })
    .await?;
    if let Some(before) = before {
        ensure!(leader.epoch > before.epoch, "{leader:?} follows {before:?}");
    }
    Ok((leader, began.elapsed()))
}

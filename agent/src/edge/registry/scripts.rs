//! The Lua scripts and how they are called. Redis runs each as one step.

use std::time::Duration;

use mtxfleet_leader::growing::{Found, Intent, IntentAnswer, IntentAsk, IntentOrder};
use mtxfleet_wire::{NodeId, RegistryKeys, SCHEMA};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};

use super::AdmitRequest;
use super::projection::Delta;
use crate::node::fenced::{FencedAnswer, FencedWrites, Write};

/// When an admitted drain of a node that no longer serves is forgotten. Long after the slowest agent has heard by
/// gossip that the node does not serve.
const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// Records of offline nodes and of workers that say nothing any more are removed when they are this old: groups that
/// grow and shrink would leave a ghost for every instance they ever had.
const GHOST_AFTER: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug)]
pub(super) struct Scripts {
    project: Script,
    admit: Script,
    fenced: Script,
    intent: Script,
}

/// How a delta is to be applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
    /// The node record as last written.
    pub expected: &'a str,
    /// Remove whatever of this node is not listed.
    pub full: bool,
    /// Free this node's place among the drains under way.
    pub release: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Projected {
    /// Redis does not hold what was last written; send everything.
    Resync,
    Ok {
        highest_schema: u64,
        unreadable: u64,
        kept_by_others: Vec<String>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    Below {
        left: u32,
    },
    /// The plan that wants it is not of the latest term, which is this.
    Superseded {
        epoch: u64,
    },
    Late,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            project: Script::new(include_str!("project.lua")),
            admit: Script::new(include_str!("admit.lua")),
            fenced: Script::new(include_str!("fenced.lua")),
            intent: Script::new(include_str!("intent.lua")),
        }
    }

    pub(super) async fn project(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &RegistryKeys,
        node: &NodeId,
        delta: &Delta<'_>,
        manner: Manner<'_>,
    ) -> RedisResult<Projected> {
        let mut call = self.project.prepare_invoke();
        for key in [keys.schema(), keys.nodes(), keys.streams(), keys.legs(), keys.drains_under_way(), keys.workers()] {
            call.key(key);
        }
        call.arg(SCHEMA).arg(GHOST_AFTER.as_millis() as u64).arg(node.as_str()).arg(manner.expected);
        call.arg(u8::from(manner.full)).arg(u8::from(manner.release)).arg(&delta.node);
        call.arg(delta.set_streams.len());
        for stream in &delta.set_streams {
            call.arg(stream.stream.as_str()).arg(json(stream)?);
        }
        call.arg(delta.remove_streams.len());
        for name in &delta.remove_streams {
            call.arg(name.as_str());
        }
        call.arg(delta.set_legs.len());
        for leg in &delta.set_legs {
            call.arg(leg.leg.as_str()).arg(json(leg)?);
        }
        call.arg(delta.remove_legs.len());
        for leg in &delta.remove_legs {
            call.arg(leg.as_str());
        }
        call.arg(delta.offline.len());
        for peer in &delta.offline {
            call.arg(peer.node.as_str()).arg(json(peer)?);
        }
        let answer: Vec<String> = call.invoke_async(connection).await?;
        let number = |at: usize| answer.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
        match answer.first().map(String::as_str) {
            Some("ok") => Ok(Projected::Ok {
                highest_schema: number(1),
                unreadable: number(2),
                kept_by_others: answer.into_iter().skip(3).collect(),
            }),
            Some("resync") => Ok(Projected::Resync),
            _ => Err(odd("projection")),
        }
    }

    /// `not_after`: Redis's own clock in milliseconds since 1970, after which nobody waits for the answer.
    pub(super) async fn admit(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &RegistryKeys,
        request: &AdmitRequest,
        not_after: u64,
    ) -> RedisResult<Admitted> {
        let mut call = self.admit.key(keys.drains_under_way());
        call.key(keys.term(request.role));
        call.arg(request.node.as_str()).arg(request.drain.as_str()).arg(request.role.as_str());
        call.arg(request.minimum).arg(not_after).arg(FORGET_AFTER.as_millis() as u64);
        match request.plan {
            Some(token) => call.arg(token.epoch).arg(token.run.to_string()),
            None => call.arg("").arg(""),
        };
        for node in &request.serving {
            call.arg(node.as_str());
        }
        let answer: Vec<String> = call.invoke_async(connection).await?;
        match answer.first().map(String::as_str) {
            Some("admitted") => Ok(Admitted::Yes),
            Some("below") => {
                Ok(Admitted::Below { left: answer.get(1).and_then(|n| n.parse().ok()).unwrap_or_default() })
            }
            Some("late") => Ok(Admitted::Late),
            Some("superseded") => Ok(Admitted::Superseded { epoch: epoch(&answer) }),
            _ => Err(odd("admission")),
        }
    }

    pub(super) async fn write_fenced(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &RegistryKeys,
        order: &FencedWrites,
    ) -> RedisResult<FencedAnswer> {
        let mut call = self.fenced.key(keys.term(order.role));
        call.arg(order.token.epoch).arg(order.token.run.to_string());
        for write in &order.writes {
            call.key(keys.table(write.table()));
            match write {
                Write::Put { field, value, .. } => call.arg("put").arg(field).arg(value),
                Write::Remove { field, .. } => call.arg("remove").arg(field),
                Write::Append { length, field, value, .. } => call.arg("append").arg(*length).arg(*field).arg(value),
            };
        }
        let answer: Vec<String> = call.invoke_async(connection).await?;
        match answer.first().map(String::as_str) {
            Some("written") => Ok(FencedAnswer::Written),
            Some("superseded") => Ok(FencedAnswer::Superseded { epoch: epoch(&answer) }),
            _ => Err(odd("fenced write")),
        }
    }

    /// `None`: it came too late. `not_after` as for [`Scripts::admit`].
    pub(super) async fn intent(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &RegistryKeys,
        order: &IntentOrder,
        not_after: u64,
    ) -> RedisResult<Option<IntentAnswer>> {
        let mut call = self.intent.key(keys.term(order.role));
        call.key(keys.intent(order.role)).arg(order.token.epoch).arg(order.token.run.to_string()).arg(not_after);
        match &order.ask {
            IntentAsk::Read => call.arg("read"),
            IntentAsk::Write(intent) => call.arg("write").arg(intent.desired).arg(intent.from),
            IntentAsk::Drop => call.arg("drop"),
        };
        let answer: Vec<String> = call.invoke_async(connection).await?;
        let number = |at: usize| answer.get(at).and_then(|text| text.parse::<u64>().ok());
        match answer.first().map(String::as_str) {
            Some("done") => Ok(Some(IntentAnswer::Done)),
            Some("fenced") => Ok(Some(IntentAnswer::Fenced)),
            Some("none") => Ok(Some(IntentAnswer::Found(None))),
            Some("late") => Ok(None),
            Some("found") => {
                let (Some(desired), Some(from), Some(age)) = (number(1), number(2), number(3)) else {
                    return Err(odd("intent"));
                };
                let intent = Intent { desired: desired as u32, from: from as u32 };
                Ok(Some(IntentAnswer::Found(Some(Found { intent, age: Duration::from_millis(age) }))))
            }
            _ => Err(odd("intent")),
        }
    }
}

fn epoch(answer: &[String]) -> u64 {
    answer.get(1).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn json(record: &impl serde::Serialize) -> RedisResult<String> {
    serde_json::to_string(record)
        .map_err(|error| (redis::ErrorKind::Client, "a record cannot be put as JSON", error.to_string()).into())
}

pub(super) fn odd(script: &'static str) -> redis::RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "a script answered oddly", script.to_owned()).into()
}

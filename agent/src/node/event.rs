//! What the edges tell the node.

use std::collections::{BTreeMap, BTreeSet};

pub use mtxfleet_leader::Peer;
use mtxfleet_leader::cloud::{CloudAnswer, CloudError};
use mtxfleet_leader::election::LeaseAnswer;
use mtxfleet_leader::growing::IntentAnswer;
use mtxfleet_wire::{ControlOrder, DrainId, DrainOrder, DrainRefusal, NodeId, StreamName, Terms, WorkerReport};

use super::cameras::InventoryNews;
use super::effect::BalancerWord;
use super::fenced::FencedAnswer;
use super::sample::{MachineSample, ServerProblem, ServerSample};

#[derive(Debug)]
pub enum Event {
    /// Time has passed; comes once a second, in a drain ten times.
    Tick,
    /// A look at MediaMTX, or why there was none.
    Server(Result<ServerSample, ServerProblem>),
    Machine(MachineSample),
    /// So many answers from this node's recordings are under way.
    RecordingsFetched(u32),
    /// The answer to [`super::effect::Effect::Check`].
    Checked(Checked),
    /// All peers as gossip knows them now (this node is not among them).
    Peers(Vec<Peer>),
    /// Redis answers, or does not.
    Registry {
        reachable: bool,
    },
    /// Other nodes that the registry lists as in service, or at least not as out of it.
    Registered(Vec<NodeId>),
    /// The answer to [`super::effect::Effect::Admit`].
    Admission {
        drain: DrainId,
        answer: Admission,
    },
    /// The answer to [`super::effect::Effect::Lease`] with this number.
    LeaseAnswered {
        number: u64,
        answer: LeaseAnswer,
    },
    /// The answer to [`super::effect::Effect::WriteFenced`] with this number.
    FencedWritten {
        number: u64,
        answer: FencedAnswer,
    },
    /// The answer to [`super::effect::Effect::Cloud`] with this number.
    CloudAnswered {
        number: u64,
        answer: Result<CloudAnswer, CloudError>,
    },
    /// The answer to [`super::effect::Effect::Intent`] with this number.
    IntentAnswered {
        number: u64,
        answer: IntentAnswer,
    },
    /// The answer to [`super::effect::Effect::SaveTerms`].
    TermsSaved {
        terms: Terms,
        done: bool,
    },
    /// Another inventory of pulled cameras, or why there is none.
    Inventory(InventoryNews),
    /// The paths of pulled cameras in MediaMTX, after each comparison.
    PathsCompared(PullsReport),
    /// A load balancer asked for this node's agent-check line and was answered `word`. `who` is the text that its
    /// `agent-send` makes it send.
    BalancerPolled {
        who: String,
        word: BalancerWord,
    },
    /// A worker said something, to whichever node it concerns.
    WorkerReport {
        report: WorkerReport,
        via: Via,
    },
    /// Somebody wants this node drained. The answer goes out as [`super::effect::Effect::Answer`] with the same ticket.
    DrainOrdered {
        ticket: Ticket,
        order: DrainOrder,
    },
    /// Somebody wants the drain cancelled, or the drained node back.
    UndrainOrdered {
        ticket: Ticket,
    },
    /// Somebody pauses or resumes a role.
    ControlOrdered {
        order: ControlOrder,
        paused: bool,
    },
    /// Somebody wants this node kept, or no longer.
    ProtectOrdered {
        protected: bool,
    },
}

/// How a worker's report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Every agent reads it there.
    Registry,
    /// Only this agent has it.
    Http,
}

/// Ties an HTTP request to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    Refused(DrainRefusal),
    /// Redis did not answer.
    Unreachable(String),
}

/// Paths of pulled cameras as they are in MediaMTX.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PullsReport {
    /// Paths that an agent added.
    pub ours: BTreeSet<StreamName>,
    /// Cameras whose path is there and is not ours.
    pub in_the_way: BTreeSet<StreamName>,
    /// Cameras whose path was refused, with MediaMTX's words.
    pub refused: BTreeMap<StreamName, String>,
}

/// What was seen of RTSP servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    pub own: Option<bool>,
    /// Peers, and whether their RTSP port answered. A peer that could not be reached at all, its agent neither, is not
    /// among them: that says nothing of its server.
    pub peers: Vec<(NodeId, bool)>,
}

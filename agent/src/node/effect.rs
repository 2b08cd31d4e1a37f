//! What the node wants done.

use std::collections::BTreeSet;
use std::sync::Arc;

use mtxfleet_leader::cloud::CloudAsk;
use mtxfleet_leader::election::LeaseOrder;
use mtxfleet_leader::growing::IntentOrder;
use mtxfleet_leader::plan::Plan;
use mtxfleet_wire::{
    CamerasReport, Control, DecisionsReport, DrainId, DrainRefusal, DrainReport, DrainView, FleetEvent, LegRecord,
    LoadReport, NodeId, NodeRecord, Role, StreamName, StreamRecord, StreamReport, Terms, TermsReport, Token,
    WorkerReport,
};

use super::controls::SavedControls;
use super::draining::Saved;
use super::event::Ticket;
use super::fenced::FencedWrites;
use super::sample::Protocol;
use crate::config::Camera;

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Gossip: what changes every second.
    PublishLoad(LoadReport),
    /// Gossip: all streams of this node, given whenever one of them changed.
    PublishStreams(Arc<[StreamReport]>),
    /// Gossip: the drain, or that there is none.
    PublishDrain(Option<DrainReport>),
    /// Gossip key `moves`; `None` takes it away.
    PublishMoves(Option<DrainReport>),
    /// Gossip: what this node wants as an orchestrator.
    PublishPlan(Box<Plan>),
    /// Gossip: its last decisions.
    PublishDecisions(Box<DecisionsReport>),
    /// Write this to disk, so that it outlives the agent.
    PersistControls(SavedControls),
    /// Gossip: the newest orders to pause or resume.
    PublishControls(Vec<Control>),
    /// Redis: this node's whole projection, and records of dead peers it speaks for.
    Project(Projection),
    /// Redis pub/sub and event log, SSE, webhook.
    Announce(FleetEvent),
    /// SSE of this agent only: an event that another node announced by gossip.
    Echo(FleetEvent),
    /// Run the admission script.
    Admit {
        drain: DrainId,
        node: NodeId,
        role: Role,
        serving: Vec<NodeId>,
        minimum: u32,
        /// The plan that wants it carries this token: refused when Redis knows of another term. `None`: an operator does.
        plan: Option<Token>,
    },
    /// Free the place that the admission script gave, at the end of a drain.
    ReleaseAdmission {
        node: NodeId,
    },
    /// Write this to disk (`None`: remove the file) before anything after it in the list is done.
    Persist(Option<Saved>),
    /// Ask Redis for a lease; [`super::event::Event::LeaseAnswered`] is the answer, always.
    Lease(LeaseOrder),
    /// Write to the registry as an orchestrator; [`super::event::Event::FencedWritten`] is the answer, always.
    WriteFenced(FencedWrites),
    /// Call the cloud; [`super::event::Event::CloudAnswered`] is the answer, always.
    Cloud(CloudAsk),
    /// Read, write or drop an orchestrator's intent; [`super::event::Event::IntentAnswered`] is the answer, always.
    Intent(IntentOrder),
    /// Write the terms to disk; [`super::event::Event::TermsSaved`] says whether they are there.
    SaveTerms(Terms),
    /// Gossip: what this node knows of the orchestrators' terms.
    PublishTerms(TermsReport),
    /// What the agent-check answers from now on.
    BalancerWord(BalancerWord),
    /// Owners of all streams, for the resolver: stream, owner's node, `host:port` of its RTSP server.
    Owners(Vec<(StreamName, NodeId, String)>),
    /// Streams that this node keeps open by reading them itself, the whole list each time.
    KeepWarm(Vec<StreamName>),
    /// Pulled streams whose paths MediaMTX must not have, since another node has them now; the whole list each time.
    /// What is not in it any more is put back as it was.
    LetGo(Vec<StreamName>),
    /// MediaMTX was seen with a path of that list a while after it was given: it was restarted, or somebody added it.
    CheckLetGo,
    /// Pulled cameras, the whole list each time: MediaMTX is to have exactly these paths beside the operator's own.
    Pull(PullOrders),
    /// MediaMTX was seen without a path that it should have.
    CheckPulls,
    /// Gossip: the inventory in force here, and what is wrong with cameras.
    PublishCameras(CamerasReport),
    Disconnect {
        protocol: Protocol,
        session: String,
    },
    /// Look whether these answer.
    Check(CheckList),
    /// Run `mediamtx.restart_command`.
    RestartServer,
    /// Write [`super::Node::availability_record`] to disk, when it suits.
    KeepAvailability,
    /// Pass a worker's report on to the agent at this URL, whose drain it is about.
    ForwardReport {
        http: String,
        report: WorkerReport,
    },
    Answer {
        ticket: Ticket,
        answer: Result<DrainView, DrainRefusal>,
    },
    /// How often the event loop ticks and looks at MediaMTX from now on.
    SetPace(Pace),
    /// The drain is over and the configuration says that the agent ends then.
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// In service: a look at MediaMTX and a tick as often as configured, every second.
    Calm,
    /// In a drain, where each look may end a phase: every 200 ms.
    Brisk,
}

/// What the agent says to a load balancer's agent-check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerWord {
    /// In service: `up` with a weight of 1 to 100 %. (100 % on hashed backends.)
    Up { weight: u8 },
    /// Just back from a drain, or just started: `ready up`, which clears an old drain flag once.
    Ready { weight: u8 },
    /// Nothing new: `drain`.
    Drain,
    /// MediaMTX is away, or its recordings have no room: `down`.
    Down,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    pub node: NodeRecord,
    /// Streams owned here; the same list for as long as none changes.
    pub streams: Arc<[StreamRecord]>,
    /// Legs connected here.
    pub legs: Vec<LegRecord>,
    /// Peers found dead, whose records this node (the first live one in order) marks `offline`.
    pub offline: Vec<NodeRecord>,
}

/// Paths of pulled cameras as they are to be in MediaMTX, all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PullOrders {
    /// Cameras whose path MediaMTX has to have.
    pub pull: Vec<Arc<Camera>>,
    /// Paths of ours that stay as they are: the inventory cannot be read, so nobody knows better.
    pub keep: BTreeSet<StreamName>,
}

/// RTSP servers to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckList {
    /// `host:port` of this node's own RTSP server, when it is its turn.
    pub own: Option<String>,
    pub peers: Vec<PeerToCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerToCheck {
    pub node: NodeId,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
    /// `http://host:port` of its agent.
    pub http: String,
}

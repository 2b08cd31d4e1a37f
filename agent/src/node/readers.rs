//! Who reads here: legs of workers, other RTSP readers, viewers. Members' own connections are none of them.

use std::collections::BTreeMap;

use mtxfleet_drain::{ObservedLeg, Reader};
use mtxfleet_wire::{Bitrate, LegId, NodeId, StreamName, WorkerId};

use super::sample::{Protocol, ServerSample, SessionSample, SessionState};

/// What an RTSP reader without a leg id counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousRtsp {
    /// Viewers watch over WebRTC and HLS, so who reads RTSP is a worker.
    Worker,
    Viewer,
}

/// All that read at one look.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readers {
    pub legs: Vec<ObservedLeg>,
    /// RTSP readers that count as workers and have no leg id.
    pub anonymous: Vec<Reader>,
    pub viewers: Vec<Reader>,
    /// Cameras that publish here.
    pub publishers: Vec<Reader>,
    /// Distribution nodes that pull from here.
    pub pulls: Vec<MemberPull>,
    /// How to disconnect each session of those above, members' apart.
    pub protocols: BTreeMap<String, Protocol>,
}

/// A distribution node's connection to this ingestion node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPull {
    pub session: String,
    pub node: NodeId,
    pub stream: String,
    pub protocol: Protocol,
    /// It is a leg of that node's relay: it goes where the stream's owner is by itself.
    pub moves: bool,
}

impl Readers {
    #[must_use]
    pub fn of(sample: &ServerSample, anonymous_rtsp: AnonymousRtsp, bitrate: impl Fn(&str) -> Option<Bitrate>) -> Self {
        let mut readers = Self::default();
        for session in &sample.sessions {
            match session.state {
                SessionState::Read => {}
                SessionState::Publish => {
                    readers.publishers.push(reader(session));
                    readers.protocols.insert(session.id.clone(), session.protocol);
                    continue;
                }
                SessionState::Idle => continue,
            }
            match kind(session, anonymous_rtsp) {
                Kind::Member { pulls, moves } => {
                    let (session, stream) = (session.clone(), session.path.clone());
                    let (id, protocol) = (session.id, session.protocol);
                    readers.pulls.extend(pulls.map(|node| MemberPull { session: id, node, stream, protocol, moves }));
                    continue;
                }
                Kind::Leg { worker, leg, stream } => readers.legs.push(ObservedLeg {
                    leg,
                    worker,
                    stream,
                    at: None,
                    session: session.id.clone(),
                    bitrate: bitrate(&session.path),
                }),
                Kind::AnonymousWorker => readers.anonymous.push(reader(session)),
                Kind::Viewer => readers.viewers.push(reader(session)),
            }
            readers.protocols.insert(session.id.clone(), session.protocol);
        }
        readers
    }

    /// How a session is disconnected.
    #[must_use]
    pub fn protocol_of(&self, session: &str) -> Option<Protocol> {
        let pull = || self.pulls.iter().find(|pull| pull.session == session).map(|pull| pull.protocol);
        self.protocols.get(session).copied().or_else(pull)
    }

    /// Workers, each counted once: one that moves has two legs for a moment, and a handover is no growth.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let named: std::collections::BTreeSet<_> = self.legs.iter().map(|leg| (&leg.worker, &leg.stream)).collect();
        (named.len() + self.anonymous.len()) as u32
    }
}

enum Kind {
    /// A distribution node's pull, or an agent keeping a stream warm.
    Member {
        pulls: Option<NodeId>,
        moves: bool,
    },
    Leg {
        worker: WorkerId,
        leg: LegId,
        stream: StreamName,
    },
    AnonymousWorker,
    Viewer,
}

fn kind(session: &SessionSample, anonymous_rtsp: AnonymousRtsp) -> Kind {
    if !matches!(session.protocol, Protocol::Rtsp | Protocol::Rtsps) {
        return Kind::Viewer;
    }
    let (mut member, mut worker, mut leg) = (None, None, None);
    for pair in session.query.split('&') {
        match pair.split_once('=') {
            Some(("pull", node)) => member = Some(NodeId::new(node).ok()),
            Some(("warm", _)) => member = Some(None),
            Some(("worker", id)) => worker = WorkerId::new(id).ok(),
            Some(("leg", id)) => leg = LegId::new(id).ok(),
            _ => {}
        }
    }
    if let Some(pulls) = member {
        return Kind::Member { pulls, moves: leg.is_some() };
    }
    match (worker, leg, StreamName::new(session.path.as_str())) {
        (Some(worker), Some(leg), Ok(stream)) => Kind::Leg { worker, leg, stream },
        _ if anonymous_rtsp == AnonymousRtsp::Viewer => Kind::Viewer,
        _ => Kind::AnonymousWorker,
    }
}

fn reader(session: &SessionSample) -> Reader {
    Reader { session: session.id.clone(), stream: session.path.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, protocol: Protocol, query: &str) -> SessionSample {
        SessionSample {
            protocol,
            id: id.into(),
            state: SessionState::Read,
            path: "cam1".into(),
            query: query.into(),
            remote: String::new(),
            inbound_bytes: 0,
            outbound_bytes: 0,
            discarded_packets: 0,
        }
    }

    fn readers(sessions: Vec<SessionSample>, anonymous: AnonymousRtsp) -> Readers {
        Readers::of(&ServerSample { sessions, ..ServerSample::default() }, anonymous, |_| None)
    }

    #[test]
    fn a_worker_with_two_legs_counts_once_and_members_do_not_count() {
        let seen = readers(
            vec![
                session("1", Protocol::Rtsp, "worker=anpr-1&leg=a"),
                session("2", Protocol::Rtsp, "worker=anpr-1&leg=b"),
                session("3", Protocol::Rtsp, "pull=dist-2"),
                session("4", Protocol::Rtsp, "warm=dist-1"),
                session("5", Protocol::Rtsp, ""),
                session("6", Protocol::WebRtc, "worker=x&leg=y"),
                SessionSample { state: SessionState::Publish, ..session("7", Protocol::Rtsp, "") },
            ],
            AnonymousRtsp::Worker,
        );
        assert_eq!((seen.workers(), seen.legs.len(), seen.anonymous.len(), seen.viewers.len()), (2, 2, 1, 1));
    }

    #[test]
    fn a_pull_with_a_leg_id_is_of_a_relay_and_moves_by_itself() {
        let pulls =
            vec![session("1", Protocol::Rtsp, "pull=dist-1"), session("2", Protocol::Rtsp, "pull=dist-2&leg=7f")];
        let seen = readers(pulls, AnonymousRtsp::Worker);
        assert_eq!((seen.workers(), seen.legs.len(), seen.anonymous.len()), (0, 0, 0));
        let moves: Vec<(&str, bool)> = seen.pulls.iter().map(|pull| (pull.node.as_str(), pull.moves)).collect();
        assert_eq!(moves, [("dist-1", false), ("dist-2", true)]);
    }

    #[test]
    fn a_reader_with_an_unreadable_worker_id_is_like_one_without() {
        let strange =
            || vec![session("1", Protocol::Rtsp, "worker=%20%&leg="), session("2", Protocol::Rtsp, "&&=&worker")];
        assert_eq!(readers(strange(), AnonymousRtsp::Worker).anonymous.len(), 2);
        assert_eq!(readers(strange(), AnonymousRtsp::Viewer).viewers.len(), 2);
    }
}

//! One stream: frames of the upstream, handed to the queue of every reader. No I/O, never waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mtxfleet_ai_client::{Frame, ParameterSets, Track};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::packet::{Numbering, Unit};
use crate::sdp;
use crate::writer::Outgoing;

/// Frames and answers that wait for one reader. Of 25 pictures and 50 pieces of sound a second: half a minute.
pub(crate) const QUEUE_ITEMS: usize = 2048;

/// Bytes of them. 16 s of 8 Mbit/s.
const QUEUE_BYTES: usize = 16 << 20;

/// What is kept since the last keyframe for readers to come, at most: less than the queue that it goes into. A stream
/// that needs more lets a reader wait for the next keyframe.
const KEPT_ITEMS: usize = 1024;
const KEPT_BYTES: usize = 8 << 20;

/// Between two sender reports of a track to one reader; the first goes before its first packet.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// What became of the packets for one reader.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Given to its queue.
    pub packets: AtomicU64,
    /// Not given, since the queue was full or a keyframe was waited for after that.
    pub discarded: AtomicU64,
    /// Bytes in the queue.
    pub queued: AtomicUsize,
}

/// Packets given and not given, of all readers that there were.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub packets: AtomicU64,
    pub discarded: AtomicU64,
}

/// Who reads, and where its packets go.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The interleaved channels of RTP and RTCP, for each track that was set up.
    pub channels: Vec<Option<(u8, u8)>>,
    pub queue: mpsc::Sender<Outgoing>,
    pub counters: Arc<Counters>,
}

/// The first packet that a reader gets of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub sequence: u16,
    pub timestamp: u32,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub tracks: Vec<Track>,
    name: String,
    /// Cancelled when the upstream is over: readers are closed then.
    pub closed: CancellationToken,
    pub sums: Arc<Sums>,
    /// The track whose keyframes begin what is kept.
    main: Option<usize>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    sdp: Vec<u8>,
    /// The tracks' parameter sets as they are in it, Annex B.
    parameter_sets: Vec<Bytes>,
    numberings: Vec<Numbering>,
    kept: Kept,
    readers: Vec<Joined>,
    next_id: u64,
}

/// Everything since the last keyframe, of all tracks; nothing while none is held.
#[derive(Debug, Default)]
struct Kept {
    units: VecDeque<Arc<Unit>>,
    bytes: usize,
}

#[derive(Debug)]
struct Joined {
    id: u64,
    to: Reader,
    sums: Arc<Sums>,
    /// For each track: whether it is video, and what it waits for.
    video: Vec<bool>,
    waits: Vec<Wait>,
    reports_due: Vec<Instant>,
    /// It is behind; what it loses is counted.
    behind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For nothing: sound is never waited for, video flows.
    No,
    /// Video, for the keyframe that it begins with.
    Begin,
    /// Video, for the keyframe after frames were discarded; what passes meanwhile is counted too.
    GoOn,
}

impl Channel {
    pub(crate) fn new(stream: &str, tracks: Vec<Track>) -> Self {
        let numbering = |track: &Track| {
            // The low bits of a random UUID are random.
            let random = uuid::Uuid::new_v4().as_u128();
            Numbering::new(random as u32, track.payload_type, (random >> 96) as u16)
        };
        let inner = Inner {
            sdp: sdp::describe(stream, &tracks),
            parameter_sets: tracks.iter().map(|track| track.parameter_sets.clone()).collect(),
            numberings: tracks.iter().map(numbering).collect(),
            kept: Kept::default(),
            readers: Vec::new(),
            next_id: 0,
        };
        Self {
            name: stream.to_owned(),
            main: tracks.iter().position(is_video),
            tracks,
            closed: CancellationToken::new(),
            sums: Arc::default(),
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn ssrc(&self, track: usize) -> Option<u32> {
        self.lock().numberings.get(track).map(|numbering| numbering.ssrc)
    }

    /// Lets a reader have packets: first `answer` (which is told where each track starts, as far as that is known), then
    /// everything since the last keyframe, then what comes. `None` when the reader's queue is closed or full.
    pub(crate) fn join(&self, reader: Reader, answer: impl FnOnce(&[Option<Start>]) -> Vec<u8>) -> Option<u64> {
        let now = Instant::now();
        let inner = &mut *self.lock();
        let id = inner.next_id;
        let video: Vec<bool> = self.tracks.iter().map(is_video).collect();
        let mut joined = Joined {
            id,
            waits: video.iter().map(|video| if *video { Wait::Begin } else { Wait::No }).collect(),
            video,
            reports_due: vec![now; self.tracks.len()],
            to: reader,
            sums: Arc::clone(&self.sums),
            behind: false,
        };
        let start = |track: usize| {
            let mut kept = inner.kept.units.iter().filter(|unit| unit.track == track);
            let first = kept.find(|unit| unit.keyframe || joined.waits[track] == Wait::No)?;
            Some(Start { sequence: first.sequence, timestamp: first.timestamp })
        };
        let starts: Vec<_> = (0..self.tracks.len()).map(start).collect();
        joined.to.queue.try_send(Outgoing::Message(answer(&starts))).ok()?;
        inner.kept.units.iter().for_each(|unit| joined.offer(unit, now));
        inner.readers.push(joined);
        inner.next_id += 1;
        Some(id)
    }

    /// Without effect when it is not there.
    pub(crate) fn leave(&self, id: u64) {
        self.lock().readers.retain(|reader| reader.id != id);
    }

    /// With the parameter sets that the camera has now.
    pub(crate) fn sdp(&self) -> Vec<u8> {
        self.lock().sdp.clone()
    }

    /// The next frame of the upstream.
    pub(crate) fn push(&self, frame: &Frame) {
        let inner = &mut *self.lock();
        if let Some(sets) = &frame.parameter_sets
            && inner.parameter_sets.get(frame.track).is_some_and(|known| *known != sets.annex_b)
        {
            inner.parameter_sets[frame.track] = sets.annex_b.clone();
            inner.sdp = sdp::describe(&self.name, &self.tracks_with(&inner.parameter_sets));
        }
        if let Some(numbering) = inner.numberings.get_mut(frame.track) {
            let unit = numbering.unit(frame);
            inner.hand_out(unit, self.main);
        }
    }

    /// Frames are missing here: whoever joins now waits for the next keyframe.
    pub(crate) fn gap(&self, track: usize) {
        if self.main == Some(track) {
            self.lock().kept = Kept::default();
        }
    }

    /// Packets given to readers and packets discarded, by reader.
    pub(crate) fn readers(&self) -> Vec<(u64, u64)> {
        let counts = |counters: &Counters| (counters.packets.load(Relaxed), counters.discarded.load(Relaxed));
        self.lock().readers.iter().map(|reader| counts(&reader.to.counters)).collect()
    }

    /// As they are described to who comes now.
    fn tracks_with(&self, parameter_sets: &[Bytes]) -> Vec<Track> {
        let with = |(track, sets): (&Track, &Bytes)| {
            let sets = ParameterSets { annex_b: sets.clone(), in_frame: true };
            let units: Vec<Bytes> = sets.nal_units().collect();
            let fmtp = if units.is_empty() { track.fmtp.clone() } else { sdp::with_parameter_sets(track, &units) };
            Track { fmtp, ..track.clone() }
        };
        self.tracks.iter().zip(parameter_sets).map(with).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn hand_out(&mut self, unit: Unit, main: Option<usize>) {
        let (unit, now) = (Arc::new(unit), Instant::now());
        self.readers.iter_mut().for_each(|reader| reader.offer(&unit, now));
        self.kept.add(unit, main);
    }
}

impl Kept {
    fn add(&mut self, unit: Arc<Unit>, main: Option<usize>) {
        if unit.keyframe && main == Some(unit.track) {
            *self = Self::default();
        } else if self.units.is_empty() {
            return;
        }
        self.bytes += unit.bytes;
        self.units.push_back(unit);
        if self.bytes > KEPT_BYTES || self.units.len() > KEPT_ITEMS {
            *self = Self::default();
        }
    }
}

impl Joined {
    /// All of a frame or nothing: after a frame that had no room, decoding needs a keyframe.
    fn offer(&mut self, unit: &Arc<Unit>, now: Instant) {
        let track = unit.track;
        let Some((rtp, rtcp)) = self.to.channels.get(track).copied().flatten() else { return };
        match self.waits[track] {
            Wait::Begin if !unit.keyframe => return,
            Wait::GoOn if !unit.keyframe => return self.discard(unit),
            _ => {}
        }
        let report = unit.report.is_some() && now >= self.reports_due[track];
        let queued = self.to.counters.queued.load(Relaxed);
        let has_room = queued == 0 || queued + unit.bytes <= QUEUE_BYTES;
        // Counted first: the writer takes it off again as soon as the unit is written.
        self.to.counters.queued.fetch_add(unit.bytes, Relaxed);
        let outgoing = Outgoing::Unit { rtp, rtcp, unit: Arc::clone(unit), report };
        if !has_room || self.to.queue.try_send(outgoing).is_err() {
            self.to.counters.queued.fetch_sub(unit.bytes, Relaxed);
            return self.discard(unit);
        }
        self.to.counters.packets.fetch_add(unit.packets.len() as u64, Relaxed);
        self.sums.packets.fetch_add(unit.packets.len() as u64, Relaxed);
        if report {
            self.reports_due[track] = now + REPORT_PERIOD;
        }
        self.waits[track] = Wait::No;
        if self.behind && !self.waits.contains(&Wait::GoOn) {
            self.behind = false;
            let discarded = self.to.counters.discarded.load(Relaxed);
            tracing::info!(reader = self.id, discarded, "a reader that was behind gets frames again");
        }
    }

    /// Sound goes on with the next packet that has room, video at a keyframe.
    fn discard(&mut self, unit: &Unit) {
        self.to.counters.discarded.fetch_add(unit.packets.len() as u64, Relaxed);
        self.sums.discarded.fetch_add(unit.packets.len() as u64, Relaxed);
        if self.video[unit.track] {
            self.waits[unit.track] = Wait::GoOn;
        }
        if !std::mem::replace(&mut self.behind, true) && !self.to.queue.is_closed() {
            tracing::warn!(reader = self.id, "a reader takes its packets too slowly: frames are discarded for it");
        }
    }
}

fn is_video(track: &Track) -> bool {
    track.media == "video"
}

#[cfg(test)]
pub(crate) mod tests;

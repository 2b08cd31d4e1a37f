//! What a Python program gets: plain, frozen objects.

use std::time::{SystemTime, UNIX_EPOCH};

use mtxfleet_ai_client::{self as client, Codec, Data, DiscontinuityKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList};

/// Copying so many bytes takes some 50 us, several times what it costs to give the GIL away and get it back.
const LARGE: usize = 256 * 1024;

/// One access unit: an encoded picture, or a piece of sound.
#[pyclass(frozen, module = "mtxfleet")]
pub(crate) struct Frame {
    frame: client::Frame,
    /// Missing frames right before this one.
    #[pyo3(get)]
    gap: Option<Discontinuity>,
    /// Made when first asked for: many programs pass most frames by.
    data: PyOnceLock<Py<PyBytes>>,
}

impl Frame {
    pub(crate) fn new(frame: client::Frame, gap: Option<Discontinuity>) -> Self {
        Self { frame, gap, data: PyOnceLock::new() }
    }
}

#[pymethods]
impl Frame {
    /// Index into `Stream.tracks`.
    #[getter]
    fn track(&self) -> usize {
        self.frame.track
    }

    /// `h264`, `h265` or `other`.
    #[getter]
    fn codec(&self) -> &'static str {
        codec(self.frame.codec)
    }

    /// Ticks of the track's clock, on one time line over all moves.
    #[getter]
    fn rtp_time(&self) -> i64 {
        self.frame.rtp_time
    }

    /// Seconds since 1970 when the camera took it; `None` until that is known.
    #[getter]
    fn wall(&self) -> Option<f64> {
        seconds(self.frame.wall?)
    }

    /// A decoder can start here.
    #[getter]
    fn keyframe(&self) -> bool {
        self.frame.keyframe
    }

    /// Handed over before; comes again for the decoder only.
    #[getter]
    fn decode_only(&self) -> bool {
        self.frame.decode_only
    }

    /// Taken while, or shortly before, this worker was away: an earlier life may have had it.
    #[getter]
    fn replayed(&self) -> bool {
        self.frame.replayed
    }

    /// It comes from a recording.
    #[getter]
    fn recorded(&self) -> bool {
        self.frame.recorded
    }

    /// This frame and all before it on its track are finished with.
    fn done(&self) {
        self.frame.done();
    }

    /// H.264 and H.265: NAL units behind start codes (Annex B). Others: the payloads of its packets, joined.
    #[getter]
    fn data(&self, python: Python<'_>) -> PyResult<Py<PyBytes>> {
        let made = self.data.get_or_try_init(python, || match &self.frame.data {
            Data::AnnexB(bytes) => copied(python, bytes),
            Data::Payloads(payloads) => copied(python, &payloads.concat()),
        })?;
        Ok(made.clone_ref(python))
    }

    /// One `bytes` for each RTP packet; of H.264 and H.265 one for the whole frame.
    #[getter]
    fn payloads<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match &self.frame.data {
            Data::AnnexB(_) => PyList::new(python, [self.data(python)?]),
            Data::Payloads(payloads) => PyList::new(python, payloads.iter().map(|bytes| PyBytes::new(python, bytes))),
        }
    }

    fn __len__(&self) -> usize {
        self.frame.data.len()
    }

    fn __repr__(&self) -> String {
        let Self { frame, .. } = self;
        let kind = if frame.keyframe { ", keyframe" } else { "" };
        format!(
            "<Frame track={} {} rtp_time={} {} bytes{kind}>",
            frame.track,
            self.codec(),
            frame.rtp_time,
            frame.data.len()
        )
    }
}

/// One copy, and other threads of Python run meanwhile where it takes long enough.
fn copied(python: Python<'_>, bytes: &[u8]) -> PyResult<Py<PyBytes>> {
    let made = PyBytes::new_with(python, bytes.len(), |to| {
        if bytes.len() < LARGE {
            to.copy_from_slice(bytes);
        } else {
            python.detach(|| to.copy_from_slice(bytes));
        }
        Ok(())
    });
    Ok(made?.unbind())
}

/// A place where frames are missing, or may be.
#[pyclass(frozen, get_all, module = "mtxfleet", from_py_object)]
#[derive(Debug, Clone)]
pub(crate) struct Discontinuity {
    /// Index into `Stream.tracks`.
    track: usize,
    /// `Frame.rtp_time` of the last frame before it, and of the next one.
    after: Option<i64>,
    before: i64,
    /// Packets missing; `None` when the camera's numbering cannot tell.
    lost_packets: Option<u64>,
    /// `lost`: packets that never came. `unproven_switch`: frames may be missing or come twice.
    kind: &'static str,
}

#[pymethods]
impl Discontinuity {
    fn __repr__(&self) -> String {
        let lost = self.lost_packets.map_or("?".to_owned(), |packets| packets.to_string());
        format!("<Discontinuity track={} {} lost_packets={lost}>", self.track, self.kind)
    }
}

impl Discontinuity {
    pub(crate) const fn track(&self) -> usize {
        self.track
    }

    /// This one and the next, with no frame between them, as one.
    pub(crate) fn and(self, next: &Self) -> Self {
        let lost_packets = self.lost_packets.zip(next.lost_packets).map(|(first, second)| first + second);
        let kind = if next.kind == UNPROVEN { UNPROVEN } else { self.kind };
        Self { lost_packets, kind, before: next.before, ..self }
    }
}

impl From<client::Discontinuity> for Discontinuity {
    fn from(gap: client::Discontinuity) -> Self {
        let client::Discontinuity { track, after, before, lost_packets, kind } = gap;
        Self { track, after, before, lost_packets, kind: self::kind(kind) }
    }
}

const UNPROVEN: &str = "unproven_switch";

/// Where a stream with checkpoints began.
#[pyclass(frozen, get_all, module = "mtxfleet")]
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// `live`, `resumed` or `unknown`.
    kind: &'static str,
    /// Resumed: frames finished with in earlier lives.
    done: u64,
    /// Resumed: `Frame.rtp_time` of the last of them.
    after: Option<i64>,
    /// Resumed: seconds since 1970 when that was taken.
    at: Option<f64>,
    /// Unknown: why.
    why: Option<String>,
}

#[pymethods]
impl Start {
    fn __repr__(&self) -> String {
        match (self.kind, &self.why) {
            ("resumed", _) => format!("<Start resumed after {} frames>", self.done),
            (kind, Some(why)) => format!("<Start {kind}: {why}>"),
            (kind, None) => format!("<Start {kind}>"),
        }
    }
}

impl From<&client::Start> for Start {
    fn from(start: &client::Start) -> Self {
        match start {
            client::Start::Live => Self { kind: "live", ..Self::default() },
            client::Start::Resumed { done, after, at } => {
                Self { kind: "resumed", done: *done, after: Some(*after), at: seconds(*at), why: None }
            }
            client::Start::Unknown { why } => Self { kind: "unknown", why: Some(why.clone()), ..Self::default() },
        }
    }
}

/// One track of a stream.
#[pyclass(frozen, get_all, module = "mtxfleet")]
#[derive(Debug)]
pub(crate) struct Track {
    /// `video`, `audio` or `application`.
    media: String,
    /// `h264`, `h265`, `mpeg4-generic`, ...
    encoding: String,
    codec: &'static str,
    /// Ticks of `Frame.rtp_time` in a second.
    clock_rate: u32,
    /// H.264 and H.265: parameter sets in Annex B form; empty when the camera's SDP has none.
    parameter_sets: Vec<u8>,
    /// The SDP's format parameters.
    fmtp: Option<String>,
}

#[pymethods]
impl Track {
    fn __repr__(&self) -> String {
        format!("<Track {} {} at {} Hz>", self.media, self.encoding, self.clock_rate)
    }
}

impl From<&client::Track> for Track {
    fn from(track: &client::Track) -> Self {
        Self {
            media: track.media.clone(),
            encoding: track.encoding.clone(),
            codec: codec(track.codec),
            clock_rate: track.clock_rate,
            parameter_sets: track.parameter_sets.to_vec(),
            fmtp: track.fmtp.clone(),
        }
    }
}

fn codec(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264",
        Codec::H265 => "h265",
        Codec::Other => "other",
    }
}

/// `None` before 1970, which is a camera's clock that was never set.
fn seconds(time: SystemTime) -> Option<f64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

fn kind(kind: DiscontinuityKind) -> &'static str {
    match kind {
        DiscontinuityKind::Lost => "lost",
        DiscontinuityKind::UnprovenSwitch => UNPROVEN,
    }
}

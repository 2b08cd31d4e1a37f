//! Frames as a [`super::Splice`] takes them and gives them, without what is in them.

use std::time::Duration;

use crate::frame::Discontinuity;

/// A frame that was handed over, as far as it is needed to find its place again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub hash: u64,
    pub time: i64,
    /// Since 1970: by this machine's clock for a live frame, by the recording node's for a recorded one.
    pub wall: Duration,
}

#[derive(Debug)]
pub(crate) struct Live<T> {
    pub hash: u64,
    pub time: i64,
    pub wall: Duration,
    pub frame: T,
}

#[derive(Debug)]
pub(crate) struct Recorded<T> {
    pub hash: u64,
    /// Presentation time in ticks of the track's clock, on a line of this take's own.
    pub ticks: i64,
    /// False for what a server sends only so that decoding can begin: its `ticks` say nothing.
    pub timed: bool,
    pub keyframe: bool,
    pub wall: Duration,
    pub frame: T,
}

/// What comes next for the application.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Out<T> {
    Live { known: Known, frame: T },
    Recorded { known: Known, decode_only: bool, frame: T },
    Gap(Discontinuity),
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// When the frame handed over last was taken.
    pub wall: Duration,
    /// By the recording node's clock: no margin is needed.
    pub exact: bool,
}

/// What one answer of a recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakeEnd {
    /// The frame handed over last was in it.
    pub anchored: bool,
    /// Frames handed over from it.
    pub frames: u64,
    /// When its last frame was taken.
    pub until: Option<Duration>,
}

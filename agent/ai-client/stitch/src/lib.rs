//! The stitch: one stream out of several legs, every frame once, in order, none missing. Pure.
//!
//! A *leg* is one RTSP connection to one relay of a source. A worker that must leave a node opens a leg to another while
//! the first still runs, gives the packets of both to a [`Stitch`], and closes the first when told that the second
//! *covers* everything that is still to come:
//!
//! ```text
//!   leg A   ... 41 42 43 44 45 46 x (closed)             frames, as the legs bring them
//!   leg B            .. 42 43 44 45 46 47 48 49 ...      behind A by its skew, joined in mid-frame
//!                          ^ B stands at 42: Covered
//!   output  ... 41 42 43 44 45 46      47 48 49 ...      paused by the skew, nothing else
//! ```
//!
//! How it does that, per track, since each has a sequence space of its own:
//!
//! 1. Packets of a leg are grouped into **access units**, all packets with one timestamp. Connections are TCP, so a jump
//!    in the sequence numbers is a loss on that leg; a unit with a hole never comes out.
//! 2. A new leg's **place** is found from units equal in number, time and content to what was emitted (in output's numbers
//!    or, where a camera was pulled anew, in another leg's), or, where a relay renumbers, from a run of equal pictures
//!    with equal spacing that fits one place only.
//! 3. The leg that holds the last emitted unit, **followed without a gap** by another, gives the next one. Decode order is
//!    the order on a leg; a timestamp is a name (with B-frames it runs backwards), and not a unique one (clocks go back).
//! 4. When every leg is past a hole at the same place, the **loss is declared**, to the packet.
//!
//! ```text
//!                   .-----------.  place proven   .---------.  its unit emitted, by it   .--------.
//!   open_leg() ---> | Searching | --------------> | Aligned | -------- or another -----> |  Met   | ---> Covered
//!                   '-----------'                 '---------'                            '--------'
//!                      |   | no proof in time, or the others ended: at a keyframe,           ^
//!                      |   '------------------ Discontinuity(UnprovenSwitch) ----------------'
//!                      v
//!                   Retired (a younger leg was switched to without proof)
//! ```
//!
//! ```
//! # use std::time::Duration;
//! # use bytes::Bytes;
//! use mtxfleet_stitch::{Codec, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId};
//!
//! let video = TrackConfig { codec: Codec::H264, clock_rate: 90_000 };
//! let mut stitch = Stitch::new(vec![video], StitchConfig::default());
//! let leg = stitch.open_leg(Duration::ZERO);
//! # let payload = Bytes::from_static(&[0x65, 0x88, 0x84]);
//! let packet = RtpPacket { sequence: 7, timestamp: 3_600, marker: true, payload };
//! stitch.push(Duration::from_millis(40), leg, TrackId(0), packet);
//! while let Some(output) = stitch.poll() {
//!     match output {
//!         Output::Unit(unit) => assert_eq!(unit.annex_b(Codec::H264)[..5], [0, 0, 0, 1, 0x65]),
//!         Output::Discontinuity(gap) => eprintln!("{:?} packets lost", gap.lost_packets),
//!         Output::Covered { leg, .. } => eprintln!("{leg:?} has it all: close the older ones"),
//!     }
//! }
//! ```
//!
//! Architecture invariant: no clock, no socket, no task. `now` is an argument; [`Stitch::tick`] lets time pass. Payloads
//! are never copied nor read beyond their first bytes while one leg is open. Memory is bounded by [`StitchConfig`], and
//! no input is an error.
//!
//! What is not known: a leg that renumbers packets *and* lost some may make the stitch announce a gap of unknown size
//! where nothing is missing. The reverse, a loss not announced, is left in three cases: a leg placed by less than the
//! full run of content when the older ones are dead, in a scene that repeats itself; a relay that splits a packet for the
//! first time in the very unit that another leg lost; and a picture that is sent again, bit for bit, under the same
//! timestamp, since the clock goes back, while a leg joins.

// In reading order.
mod stitch;

mod track;

mod leg;

mod alignment;

mod history;

mod assembler;

mod payload;

mod types;

pub use payload::{annex_b, content_hash};
pub use stitch::Stitch;
pub use types::{
    AccessUnit, Codec, Counters, Discontinuity, DiscontinuityKind, LegKey, Output, RtpPacket, StitchConfig,
    TrackConfig, TrackId,
};

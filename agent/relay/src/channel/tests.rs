use bytes::Bytes;
use mtxfleet_ai_client::Codec;

use super::*;

pub(crate) fn video() -> Track {
    Track {
        media: "video".to_owned(),
        encoding: "h264".to_owned(),
        codec: Codec::H264,
        clock_rate: 90_000,
        parameter_sets: Bytes::new(),
        payload_type: 96,
        rtpmap: Some("H264/90000".to_owned()),
        fmtp: Some("packetization-mode=1".to_owned()),
    }
}

pub(crate) fn audio() -> Track {
    Track {
        media: "audio".to_owned(),
        encoding: "pcmu".to_owned(),
        codec: Codec::Other,
        clock_rate: 8_000,
        payload_type: 0,
        rtpmap: None,
        fmtp: None,
        ..video()
    }
}

impl Channel {
    /// As [`Channel::push`], with one packet of `length` bytes whose first ones are `number`.
    pub(crate) fn push_test_unit(&self, track: usize, keyframe: bool, number: u32, length: usize) {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(length.max(4), 0);
        let payload = Bytes::from(payload);
        let inner = &mut *self.lock();
        let numbering = &mut inner.numberings[track];
        let unit = numbering.number(track, keyframe, i64::from(number), None, std::iter::once((&payload, true)));
        inner.hand_out(unit, self.main);
    }
}

struct Seat {
    queue: mpsc::Receiver<Outgoing>,
    counters: Arc<Counters>,
    starts: Vec<Option<Start>>,
}

impl Seat {
    fn join(channel: &Channel, items: usize) -> Self {
        let (sender, queue) = mpsc::channel(items);
        let counters = Arc::<Counters>::default();
        let mut starts = Vec::new();
        let channels = channel.tracks.iter().enumerate().map(|(n, _)| Some((2 * n as u8, 2 * n as u8 + 1))).collect();
        let reader = Reader { channels, queue: sender, counters: Arc::clone(&counters) };
        let joined = channel.join(reader, |given| {
            starts = given.to_vec();
            b"PLAY".to_vec()
        });
        joined.expect("room for the answer");
        Self { queue, counters, starts }
    }

    /// Track and time of each unit that waits, after the answer if that still waits.
    fn take(&mut self) -> Vec<(usize, u32)> {
        let mut taken = Vec::new();
        while let Ok(outgoing) = self.queue.try_recv() {
            if let Outgoing::Unit { unit, .. } = outgoing {
                self.counters.queued.fetch_sub(unit.bytes, Relaxed);
                taken.push((unit.track, unit.timestamp));
            }
        }
        taken
    }

    fn discarded(&self) -> u64 {
        self.counters.discarded.load(Relaxed)
    }
}

#[test]
fn a_reader_begins_at_the_last_keyframe_with_all_that_followed_it() {
    let channel = Channel::new("cam1", vec![video(), audio()]);
    for (track, keyframe, number) in
        [(0, true, 1), (1, true, 2), (0, true, 3), (0, false, 4), (1, true, 5), (0, false, 6)]
    {
        channel.push_test_unit(track, keyframe, number, 100);
    }
    let mut seat = Seat::join(&channel, 64);
    assert_eq!(seat.take(), [(0, 3), (0, 4), (1, 5), (0, 6)]);
    assert_eq!(seat.starts[0].map(|start| start.timestamp), Some(3));
    assert_eq!(seat.starts[1].map(|start| start.timestamp), Some(5));
    channel.push_test_unit(0, false, 7, 100);
    assert_eq!(seat.take(), [(0, 7)]);
    assert_eq!(seat.discarded(), 0);
}

#[test]
fn without_a_kept_keyframe_a_reader_waits_for_the_next_but_not_for_sound() {
    let channel = Channel::new("cam1", vec![video(), audio()]);
    channel.push_test_unit(0, false, 1, 100);
    let mut seat = Seat::join(&channel, 64);
    for (track, keyframe, number) in [(0, false, 2), (1, true, 3), (0, true, 4), (0, false, 5)] {
        channel.push_test_unit(track, keyframe, number, 100);
    }
    assert_eq!(seat.take(), [(1, 3), (0, 4), (0, 5)]);
    assert_eq!((seat.starts[0], seat.discarded()), (None, 0));
}

#[test]
fn after_a_gap_nobody_begins_before_the_next_keyframe() {
    let channel = Channel::new("cam1", vec![video()]);
    channel.push_test_unit(0, true, 1, 100);
    channel.gap(0);
    channel.push_test_unit(0, false, 2, 100);
    let mut seat = Seat::join(&channel, 64);
    channel.push_test_unit(0, false, 3, 100);
    channel.push_test_unit(0, true, 4, 100);
    assert_eq!(seat.take(), [(0, 4)]);
}

#[test]
fn a_stalled_reader_loses_whole_frames_until_a_keyframe_and_the_others_lose_nothing() {
    let channel = Channel::new("cam1", vec![video()]);
    let (mut quick, mut stalled) = (Seat::join(&channel, 64), Seat::join(&channel, 4));
    let mut of_quick = Vec::new();
    for number in 1..=12 {
        channel.push_test_unit(0, number % 5 == 1, number, 100);
        of_quick.extend(quick.take());
    }
    assert_eq!(of_quick.len(), 12);
    // The answer and three frames had room.
    assert_eq!(stalled.take(), [(0, 1), (0, 2), (0, 3)]);
    assert_eq!((stalled.discarded(), quick.discarded()), (9, 0));
    for number in 13..=17 {
        channel.push_test_unit(0, number % 5 == 1, number, 100);
    }
    assert_eq!(stalled.take(), [(0, 16), (0, 17)]);
    assert_eq!(stalled.discarded(), 12);
    assert_eq!(channel.readers(), [(17, 0), (5, 12)]);
}

#[test]
fn a_queue_is_bounded_in_bytes_and_takes_a_frame_larger_than_that_when_empty() {
    let channel = Channel::new("cam1", vec![video()]);
    let mut seat = Seat::join(&channel, 64);
    seat.take();
    channel.push_test_unit(0, true, 1, QUEUE_BYTES + 1);
    channel.push_test_unit(0, true, 2, 100);
    assert_eq!(seat.take(), [(0, 1)]);
    channel.push_test_unit(0, true, 3, QUEUE_BYTES / 2);
    channel.push_test_unit(0, false, 4, QUEUE_BYTES / 2);
    assert_eq!(seat.take(), [(0, 3)]);
    assert_eq!(seat.discarded(), 2);
}

#[test]
fn what_is_kept_for_readers_to_come_is_bounded() {
    let channel = Channel::new("cam1", vec![video(), audio()]);
    channel.push_test_unit(0, true, 1, KEPT_BYTES - 1_000);
    channel.push_test_unit(0, false, 2, 2_000);
    assert_eq!(Seat::join(&channel, 64).take(), []);
    channel.push_test_unit(0, true, 3, 100);
    (0..KEPT_ITEMS as u32).for_each(|number| channel.push_test_unit(1, true, 4 + number, 100));
    assert_eq!(Seat::join(&channel, 64).take(), []);
}

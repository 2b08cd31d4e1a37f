use super::*;

const SDP: &[u8] =
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";

fn packet(sequence: u16, timestamp: u32, marker: bool, payload: &[u8]) -> BytesMut {
    let mut packet = BytesMut::from(&[0x80, if marker { 0xe0 } else { 0x60 }][..]);
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&timestamp.to_be_bytes());
    packet.extend_from_slice(b"SRC!");
    packet.extend_from_slice(payload);
    packet
}

fn stream(absolute: bool) -> Stream {
    Stream::new(media::tracks(SDP).unwrap(), Arc::default(), absolute, None)
}

/// A stream whose video has started.
fn started() -> Stream {
    let stream = stream(false);
    stream.write_rtp(0, packet(0, 0, true, &[0x65]));
    stream
}

fn reader(queue: usize) -> (Reader, mpsc::Receiver<Outgoing>, Arc<Counters>) {
    let (sender, receiver) = mpsc::channel(queue);
    let counters = Arc::<Counters>::default();
    let session = Uuid::new_v4();
    (Reader { session, channels: vec![Some((4, 5))], queue: sender, counters: counters.clone() }, receiver, counters)
}

/// RTP sequence numbers, and RTCP packets, of what is queued.
fn drain(queue: &mut mpsc::Receiver<Outgoing>) -> (Vec<u16>, Vec<Bytes>) {
    let (mut sequences, mut reports) = (Vec::new(), Vec::new());
    while let Ok(message) = queue.try_recv() {
        match message {
            Outgoing::Data { channel: 4, data } => sequences.push(u16::from_be_bytes([data[2], data[3]])),
            Outgoing::Data { channel: 5, data } => reports.push(data),
            other => panic!("{other:?}"),
        }
    }
    (sequences, reports)
}

#[tokio::test]
async fn a_reader_joins_with_the_next_packet() {
    let stream = started();
    stream.write_rtp(0, packet(1, 100, false, &[0x41]));
    let (to, mut queue, _) = reader(10);
    assert_eq!(stream.next_packet(0), Some((2, 100)));
    stream.add_reader(to);
    stream.write_rtp(0, packet(2, 100, true, &[0x41]));
    stream.write_rtp(0, packet(3, 200, true, &[0x41]));
    assert_eq!(drain(&mut queue).0, [2, 3]);
}

#[tokio::test]
async fn video_starts_at_a_keyframe() {
    let stream = stream(false);
    let (to, mut queue, _) = reader(10);
    stream.add_reader(to);
    stream.write_rtp(0, packet(1, 100, true, &[0x41]));
    stream.write_rtp(0, packet(2, 200, false, &[0x67]));
    stream.write_rtp(0, packet(3, 200, true, &[0x65]));
    stream.write_rtp(0, packet(4, 300, true, &[0x41]));
    assert_eq!(drain(&mut queue).0, [2, 3, 4]);
}

#[tokio::test]
async fn only_the_ssrc_of_a_packet_changes() {
    let stream = started();
    let (to, mut queue, _) = reader(10);
    stream.add_reader(to);
    let original = packet(7, 100, true, &[0x41, 1, 2, 3]);
    stream.write_rtp(0, original.clone());
    let Ok(Outgoing::Data { data, .. }) = queue.try_recv() else { panic!("nothing sent") };
    assert_eq!(data[..8], original[..8]);
    assert_eq!(data[8..12], stream.ssrc(0).to_be_bytes());
    assert_eq!(data[12..], original[12..]);
}

#[tokio::test]
async fn a_full_queue_discards_and_counts() {
    let stream = started();
    // Room for a packet, the sender report behind it, and another packet.
    let (to, mut queue, counters) = reader(3);
    let session = to.session;
    stream.add_reader(to);
    for n in 0..5 {
        stream.write_rtp(0, packet(n, u32::from(n), false, &[0x41]));
    }
    assert_eq!(drain(&mut queue).0, [0, 1]);
    assert_eq!(counters.outbound_discarded.load(Relaxed), 3);
    assert_eq!(counters.outbound_rtp.load(Relaxed), 2);
    stream.remove_reader(session);
    stream.write_rtp(0, packet(9, 9, false, &[0x41]));
    assert_eq!(drain(&mut queue).0, [0u16; 0]);
}

#[tokio::test]
async fn the_first_packet_is_followed_by_wall_time() {
    let stream = started();
    let (to, mut queue, _) = reader(10);
    stream.add_reader(to);
    stream.write_rtp(0, packet(1, 100, true, &[0x41]));
    stream.write_rtp(0, packet(2, 200, true, &[0x41]));
    let (_, reports) = drain(&mut queue);
    assert_eq!(reports.len(), 1);
    let ntp = u64::from_be_bytes(*reports[0][8..].first_chunk().unwrap());
    assert!(ntp_now() - ntp < 1 << 32, "more than a second off");
    assert_eq!(reports[0][16..20], 100u32.to_be_bytes());
}

#[tokio::test]
async fn the_sources_wall_time_is_passed_on_when_asked_for_and_packets_before_it_are_not() {
    let stream = stream(true);
    let (to, mut queue, _) = reader(10);
    stream.add_reader(to);
    stream.write_rtp(0, packet(1, 90_000, false, &[0x65]));
    let mut report = vec![0x80, 200, 0, 6, 0, 0, 0, 1];
    report.extend_from_slice(&(1000u64 << 32).to_be_bytes());
    report.extend_from_slice(&90_000u32.to_be_bytes());
    report.extend_from_slice(&[0; 8]);
    stream.write_rtcp(0, &report);
    // B-frames: half a second earlier than the report.
    stream.write_rtp(0, packet(2, 45_000, true, &[0x41]));
    let (sequences, reports) = drain(&mut queue);
    assert_eq!(sequences, [2], "the first packet had no time yet");
    assert_eq!(u64::from_be_bytes(*reports[0][8..].first_chunk().unwrap()), (1000u64 << 32) - (1 << 31));
}

#[tokio::test]
async fn damaged_packets_are_dropped() {
    let stream = stream(false);
    let (to, mut queue, _) = reader(10);
    stream.add_reader(to);
    stream.write_rtp(0, BytesMut::from(&b"short"[..]));
    stream.write_rtp(0, BytesMut::from(&[0u8; 40][..]));
    stream.write_rtp(0, BytesMut::from(&[0xffu8; 12][..]));
    stream.write_rtp(0, BytesMut::from(&[0x9f; 16][..]));
    stream.write_rtcp(0, &[0x80, 200, 0]);
    assert!(queue.try_recv().is_err());
}

use super::*;

/// As v1.20.1 answered, one camera from ffmpeg; a reader put in by hand.
const PATHS: &str = r#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","confName":"all_others","ready":true,"readyTime":"2026-11-23T15:22:33.817718012Z","available":true,"availableTime":"2026-11-23T15:22:33.817718012Z","online":true,"onlineTime":"2026-11-23T15:22:33.817722799Z","source":{"type":"rtspSession","id":"99a5feed-e9db-4679-97d9-820192c2d840"},"tracks":["H264"],"tracks2":[{"codec":"H264","codecProps":{"width":160,"height":120,"profile":"High 4:4:4 Predictive","level":"1"}}],"readers":[{"type":"rtspSession","id":"99a5feed-e9db-4679-97d9-820192c2d841"}],"inboundBytes":36069,"outboundBytes":17,"inboundFramesInError":0,"bytesReceived":36069,"bytesSent":17}]}"#;

/// As v1.20.1 answered.
const RTSP_SESSIONS: &str = r#"{"itemCount":1,"pageCount":1,"items":[{"id":"99a5feed-e9db-4679-97d9-820192c2d840","created":"2026-11-23T15:22:33.816577491Z","remoteAddr":"127.0.0.1:51396","state":"publish","path":"cam1","query":"","user":"","userAgent":"Lavf59.27.100","transport":"TCP","profile":"AVP","conns":["35ade8f2-30d0-4f5f-9792-c3e7e1b2b706"],"inboundBytes":36618,"inboundRTPPackets":39,"inboundRTPPacketsLost":0,"inboundRTPPacketsInError":0,"inboundRTPPacketsJitter":463.2980365283207,"inboundRTCPPackets":1,"inboundRTCPPacketsInError":0,"outboundBytes":0,"outboundRTPPackets":0,"outboundRTPPacketsReportedLost":0,"outboundRTPPacketsDiscarded":7,"outboundRTCPPackets":0,"bytesReceived":36618,"bytesSent":0,"rtpPacketsReceived":39,"rtpPacketsSent":0,"rtpPacketsLost":0,"rtpPacketsInError":0,"rtpPacketsJitter":463.2980365283207,"rtcpPacketsReceived":1,"rtcpPacketsSent":0,"rtcpPacketsInError":0}]}"#;

#[test]
fn a_path_is_read_with_its_reader_counted() {
    let page = parse_paths(PATHS.as_bytes()).unwrap();
    let expected = PathSample {
        name: "cam1".to_owned(),
        available: true,
        available_since: Some(mtxfleet_wire::UnixMillis(1_795_447_353_817)),
        source: "rtspSession".to_owned(),
        inbound_bytes: 36_069,
        outbound_bytes: 17,
        readers: 1,
    };
    assert_eq!((page.item_count, page.page_count, page.items), (1, 1, vec![expected]));
}

#[test]
fn a_session_is_read_with_its_discarded_packets() {
    let page = parse_sessions(Protocol::Rtsp, RTSP_SESSIONS.as_bytes()).unwrap();
    let expected = SessionSample {
        protocol: Protocol::Rtsp,
        id: "99a5feed-e9db-4679-97d9-820192c2d840".to_owned(),
        state: SessionState::Publish,
        path: "cam1".to_owned(),
        query: String::new(),
        remote: "127.0.0.1:51396".to_owned(),
        inbound_bytes: 36_618,
        outbound_bytes: 0,
        discarded_packets: 7,
    };
    assert_eq!(page.items, [expected]);
}

#[test]
fn names_before_they_were_deprecated_are_understood() {
    let body = br#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","ready":false,"readyTime":null,
        "source":null,"bytesReceived":5,"bytesSent":6,"readers":null}]}"#;
    let path = parse_paths(body).unwrap().items.remove(0);
    assert_eq!((path.available, path.inbound_bytes, path.outbound_bytes, path.readers), (false, 5, 6, 0));
    assert_eq!((path.source.as_str(), path.available_since), ("", None));
}

#[test]
fn new_names_win_over_deprecated_ones() {
    let body = br#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","ready":false,"available":true,
        "inboundBytes":50,"bytesReceived":5,"outboundBytes":60,"bytesSent":6}]}"#;
    let path = parse_paths(body).unwrap().items.remove(0);
    assert_eq!((path.available, path.inbound_bytes, path.outbound_bytes), (true, 50, 60));
}

#[test]
fn an_hls_session_reads_though_it_has_no_state() {
    let body = br#"{"itemCount":1,"pageCount":1,"items":[{"id":"a","path":"cam1","query":"","remoteAddr":"[::1]:1",
        "user":"","userAgent":"","isCDN":false,"outboundBytes":9}]}"#;
    let session = parse_sessions(Protocol::Hls, body).unwrap().items.remove(0);
    assert_eq!((session.state, session.outbound_bytes), (SessionState::Read, 9));
}

#[test]
fn text_with_escapes_is_unescaped() {
    let body =
        br#"{"itemCount":1,"pageCount":1,"items":[{"id":"a","state":"re\u0061d","path":"c\u002fm","query":"a=\"b\"&x",
        "remoteAddr":"","outboundBytes":9}]}"#;
    let session = parse_sessions(Protocol::Rtsp, body).unwrap().items.remove(0);
    assert_eq!((session.path.as_str(), session.query.as_str()), ("c/m", "a=\"b\"&x"));
    assert_eq!(session.state, SessionState::Read);
}

#[test]
fn a_figure_that_is_missing_is_an_error_and_not_zero() {
    for body in [
        r#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","available":true,"outboundBytes":1}]}"#,
        r#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","available":true,"inboundBytes":1}]}"#,
        r#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","inboundBytes":1,"outboundBytes":1}]}"#,
        r#"{"itemCount":1,"pageCount":1,"items":[{"available":true,"inboundBytes":1,"outboundBytes":1}]}"#,
        r#"{"itemCount":1,"pageCount":1,"items":[{"name":"cam1","available":true,"inboundBytes":-1,"outboundBytes":1}]}"#,
        r#"{"itemCount":1,"pageCount":1,"items":{}}"#,
        r#"{"pageCount":1,"items":[]}"#,
        r#"[]"#,
        r#"{"status":"error","error":"x"}"#,
    ] {
        assert!(parse_paths(body.as_bytes()).is_err(), "{body}");
    }
}

proptest::proptest! {
    #[test]
    fn no_cut_or_changed_answer_makes_it_panic(cut in 0..PATHS.len(), at in 0..PATHS.len(), byte: u8) {
        let mut body = PATHS.as_bytes().to_vec();
        body[at] = byte;
        let _ = parse_paths(&body);
        let _ = parse_sessions(Protocol::Rtsp, &body);
        proptest::prop_assert!(parse_paths(&PATHS.as_bytes()[..cut]).is_err());
    }
}

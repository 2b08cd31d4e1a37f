//! One RTSP connection: opened over TCP with the leg's id in the URL, read packet by packet, closed with TEARDOWN.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream as _;
use mtxfleet_wire::{LegId, StreamName, WorkerId};
use retina::client::{
    Described, InitialSequenceNumberPolicy, InitialTimestampPolicy, PacketItem, PlayOptions, Playing, Session,
    SessionGroup, SessionOptions, SetupOptions, UnknownRtcpSsrcPolicy,
};
use retina::codec::{FrameFormat, ParametersRef};
use url::Url;

use crate::config::{Credentials, Settings};
use crate::frame::{Codec, Track};
use crate::handover::Target;
use crate::tls::Tls;

/// How long closing waits for the answer to TEARDOWN.
const TEARDOWN: Duration = Duration::from_secs(1);

/// Packets in a row whose numbers the connection had passed already; more are a camera that counts anew. A camera that
/// sends packets twice has one of these after each good one.
const MOST_REPEATS: u32 = 64;

/// Port of `rtsps://` where the URL has none (as in MediaMTX; RFC 7826 has 322).
const RTSPS_PORT: u16 = 8322;

/// A stream with more tracks than this is refused; cameras have two or three.
const MOST_TRACKS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LegError {
    /// Only the first line: retina adds the connection's details on more.
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Rtsp(#[from] retina::Error),
    #[error("the server asks for user and password, and none are configured (401)")]
    WantsCredentials,
    #[error("the server refuses this user and password (401)")]
    WrongCredentials,
    #[error("RTSPS at {address}: {why}")]
    Tls { address: String, why: std::io::Error },
    #[error("it offers no track that can be read")]
    NoTracks,
    #[error("it offers {0} tracks, more than {MOST_TRACKS}")]
    TooManyTracks(usize),
    #[error("its tracks are not those of the stream that was opened: {0}")]
    OtherTracks(String),
    #[error("{0:?} is no host:port")]
    BadAddress(String),
}

/// What a leg delivers.
#[derive(Debug)]
pub(crate) enum LegItem {
    Rtp {
        /// Index into the stream's tracks.
        track: usize,
        sequence: u16,
        timestamp: u32,
        marker: bool,
        payload: Bytes,
    },
    /// An RTCP sender report.
    Report { track: usize, ntp: u64, rtp: u32 },
}

/// A leg that plays.
pub(crate) struct Leg {
    session: Session<Playing>,
    /// From retina's stream index to the stream's track.
    tracks: Vec<Option<usize>>,
    group: Arc<SessionGroup>,
    /// Packets in a row that came before.
    repeats: u32,
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg").field("tracks", &self.tracks).finish_non_exhaustive()
    }
}

/// `rtsp://host:port/STREAM?worker=ID&leg=UUID`: the agents find worker and leg in the query of the session list.
pub(crate) fn leg_url(base: &Url, stream: &StreamName, worker: &WorkerId, leg: &LegId) -> Url {
    let mut url = base.clone();
    // Ids hold only characters that need no escape.
    url.set_path(stream.as_str());
    url.set_query(Some(&format!("worker={worker}&leg={leg}")));
    url
}

impl Leg {
    /// Connects and begins to play. `wanted` are the stream's tracks, empty for its first leg; those of this leg are
    /// matched to them by media type and order, and given as this leg's server describes them. Not bounded in time: the caller drops it when it takes too long.
    pub(crate) async fn open(
        settings: &Settings,
        target: &Target,
        id: &LegId,
        wanted: &[Track],
    ) -> Result<(Self, Vec<Track>), LegError> {
        let base = match target {
            Target::StableUrl => settings.base.clone(),
            Target::Node { rtsp, .. } => match Url::parse(&format!("rtsp://{rtsp}")) {
                Ok(url) if url.host().is_some() && url.username().is_empty() => url,
                _ => return Err(LegError::BadAddress(rtsp.clone())),
            },
        };
        let base = match &settings.tls {
            Some(tls) => through_door(tls, &base).await?,
            None => base,
        };
        let mut url = leg_url(&base, &settings.stream, &settings.worker, id);
        if let Some(follow) = &settings.follow {
            url.set_query(Some(&follow.query(id)));
        }
        let group = Arc::new(SessionGroup::default());
        let options = SessionOptions::default()
            .creds(
                settings
                    .credentials
                    .clone()
                    .map(|Credentials { user, password }| retina::client::Credentials { username: user, password }),
            )
            .user_agent(format!("mtxfleet-ai-client/{}", env!("CARGO_PKG_VERSION")))
            .session_group(group.clone());
        let refused = |error: retina::Error| match (error.status_code(), &settings.credentials) {
            (Some(401), None) => LegError::WantsCredentials,
            (Some(401), Some(_)) => LegError::WrongCredentials,
            _ => error.into(),
        };
        let mut session = Session::describe(url, options).await.map_err(refused)?;
        let offered = with_formats(session.streams().iter().map(track).collect(), session.sdp());
        let tracks = matched(&offered, wanted)?;
        for (index, _) in tracks.iter().enumerate().filter(|(_, track)| track.is_some()) {
            // The frame format makes retina give parameter sets in Annex B form; packets are untouched by it.
            session.setup(index, SetupOptions::default().frame_format(FrameFormat::SIMPLE)).await?;
        }
        let offered = with_parameter_sets(offered, &session);
        let place = |index| tracks.iter().position(|of| *of == Some(index));
        let described = (0..offered.len()).filter_map(|index| Some(offered[place(index)?].clone())).collect();
        let session = session.play(play_options()).await?;
        Ok((Self { session, tracks, group, repeats: 0 }, described))
    }

    /// The next packet or report; `None` when the server ended the session.
    pub(crate) fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<LegItem, LegError>>> {
        loop {
            let item = match ready!(Pin::new(&mut self.session).poll_next(context)) {
                None => return Poll::Ready(None),
                // retina takes a packet that comes twice for an error, and goes on when asked for the next.
                Some(Err(error)) if self.repeats < MOST_REPEATS && is_repeat(&error) => {
                    self.repeats += 1;
                    continue;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(item)) => item,
            };
            self.repeats = 0;
            if let Some(item) = self.translated(item) {
                return Poll::Ready(Some(Ok(item)));
            }
        }
    }

    fn translated(&self, item: PacketItem) -> Option<LegItem> {
        let track_of = |stream: usize| self.tracks.get(stream).copied().flatten();
        match item {
            PacketItem::Rtp(packet) => Some(LegItem::Rtp {
                track: track_of(packet.stream_id())?,
                sequence: packet.sequence_number(),
                // retina extends it to 64 bits; the lower 32 are those of the packet.
                timestamp: packet.timestamp().timestamp() as u32,
                marker: packet.mark(),
                payload: packet.into_payload_bytes(),
            }),
            PacketItem::Rtcp(compound) => {
                let report = compound.pkts().next()?.as_sender_report().ok()??;
                let (ntp, rtp) = (report.ntp_timestamp().0, report.rtp_timestamp());
                Some(LegItem::Report { track: track_of(compound.stream_id())?, ntp, rtp })
            }
            _ => None,
        }
    }

    /// Says TEARDOWN and waits a little for the answer.
    pub(crate) async fn close(self) {
        let group = self.group.clone();
        // Dropping the session makes retina send TEARDOWN from a task of its own.
        drop(self);
        if tokio::time::timeout(TEARDOWN, group.await_teardown()).await.is_err() {
            tracing::debug!("no answer to TEARDOWN");
        }
    }
}

/// retina's errors have no kinds, only texts.
fn is_repeat(error: &retina::Error) -> bool {
    error.to_string().starts_with("Out-of-order packet")
}

/// The address under which retina reaches a server behind TLS.
async fn through_door(tls: &Tls, base: &Url) -> Result<Url, LegError> {
    let (host, port) = (base.host_str().unwrap_or_default(), base.port().unwrap_or(RTSPS_PORT));
    let told = |why| LegError::Tls { address: format!("{host}:{port}"), why };
    let door = tls.door(host, port).await.map_err(told)?;
    let url = format!("rtsp://{door}");
    Url::parse(&url).map_err(|_| LegError::BadAddress(url))
}

/// Permissive where real servers differ; the stitch looks at the packets themselves.
fn play_options() -> PlayOptions {
    PlayOptions::default()
        .initial_timestamp(InitialTimestampPolicy::Permissive)
        .initial_seq(InitialSequenceNumberPolicy::Ignore)
        .unknown_rtcp_ssrc(UnknownRtcpSsrcPolicy::DropPackets)
}

fn track(stream: &retina::client::Stream) -> Track {
    let codec = match stream.encoding_name() {
        "h264" => Codec::H264,
        "h265" => Codec::H265,
        _ => Codec::Other,
    };
    Track {
        media: stream.media().to_owned(),
        encoding: stream.encoding_name().to_owned(),
        codec,
        clock_rate: stream.clock_rate_hz(),
        parameter_sets: Bytes::new(),
        payload_type: stream.rtp_payload_type(),
        rtpmap: None,
        fmtp: None,
    }
}

/// What the SDP says of each track's format. retina leaves out medias that it cannot read, so they are matched in order.
fn with_formats(mut tracks: Vec<Track>, sdp: &[u8]) -> Vec<Track> {
    // retina's parser takes more than this one; the tracks are read all the same.
    let Ok(sdp) = sdp_types::Session::parse(sdp) else { return tracks };
    let mut medias = sdp.medias.iter();
    for track in &mut tracks {
        let payload_type = track.payload_type.to_string();
        let first_format = |media: &sdp_types::Media| media.fmt.split(' ').next() == Some(payload_type.as_str());
        let Some(media) = medias.find(|media| media.media == track.media && first_format(media)) else { break };
        let value = |name: &str| {
            let mut values = media.attributes.iter().filter(|a| a.attribute == name).filter_map(|a| a.value.as_deref());
            let (_, text) = values.find_map(|value| value.split_once(' ').filter(|(of, _)| *of == payload_type))?;
            Some(text.trim().to_owned())
        };
        (track.rtpmap, track.fmtp) = (value("rtpmap"), value("fmtp"));
    }
    tracks
}

fn with_parameter_sets(mut tracks: Vec<Track>, session: &Session<Described>) -> Vec<Track> {
    for (track, stream) in tracks.iter_mut().zip(session.streams()) {
        if let (Codec::H264 | Codec::H265, Some(ParametersRef::Video(video))) = (track.codec, stream.parameters()) {
            track.parameter_sets = Bytes::copy_from_slice(video.extra_data());
        }
    }
    tracks
}

/// For each offered track, which of the wanted ones it is. All are taken when none is wanted yet.
fn matched(offered: &[Track], wanted: &[Track]) -> Result<Vec<Option<usize>>, LegError> {
    if offered.is_empty() {
        return Err(LegError::NoTracks);
    }
    if offered.len() > MOST_TRACKS {
        return Err(LegError::TooManyTracks(offered.len()));
    }
    if wanted.is_empty() {
        return Ok((0..offered.len()).map(Some).collect());
    }
    let mut taken: HashMap<&str, usize> = HashMap::new();
    let mut found = vec![None; offered.len()];
    for (index, want) in wanted.iter().enumerate() {
        let nth = taken.entry(&want.media).or_default();
        let offer = offered.iter().enumerate().filter(|(_, offer)| offer.media == want.media).nth(*nth);
        *nth += 1;
        match offer {
            Some((at, offer)) if offer.encoding == want.encoding && offer.clock_rate == want.clock_rate => {
                found[at] = Some(index);
            }
            other => {
                let got = other.map_or_else(|| "nothing".to_owned(), |(_, offer)| offer.to_string());
                return Err(LegError::OtherTracks(format!("{want} expected, {got} found")));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(media: &str, encoding: &str) -> Track {
        Track {
            media: media.to_owned(),
            encoding: encoding.to_owned(),
            codec: Codec::Other,
            clock_rate: 90_000,
            parameter_sets: Bytes::new(),
            payload_type: 96,
            rtpmap: None,
            fmtp: None,
        }
    }

    #[test]
    fn formats_are_those_of_the_sdp_also_where_a_media_was_left_out() {
        let sdp = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n\
            m=video 0 RTP/AVP 97\r\na=rtpmap:97 VP9/90000\r\n\
            m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1; a=b\r\n\
            m=audio 0 RTP/AVP 0\r\n";
        let found =
            with_formats(vec![track("video", "h264"), Track { payload_type: 0, ..track("audio", "pcmu") }], sdp);
        assert_eq!(found[0].rtpmap.as_deref(), Some("H264/90000"));
        assert_eq!(found[0].fmtp.as_deref(), Some("packetization-mode=1; a=b"));
        assert_eq!((&found[1].rtpmap, &found[1].fmtp), (&None, &None));
        assert_eq!(with_formats(vec![track("video", "h264")], b"no SDP"), [track("video", "h264")]);
    }

    #[test]
    fn the_url_of_a_leg_names_worker_and_leg_in_its_query() {
        let base = Url::parse("rtsp://[::1]:8554").expect("valid");
        let url = leg_url(
            &base,
            &StreamName::new("site/cam1").expect("valid"),
            &WorkerId::new("anpr-1").expect("valid"),
            &LegId::new("7f").expect("valid"),
        );
        assert_eq!(url.as_str(), "rtsp://[::1]:8554/site/cam1?worker=anpr-1&leg=7f");
    }

    #[test]
    fn tracks_are_matched_by_media_and_order_whatever_lies_between() {
        let wanted = [track("video", "h264"), track("audio", "opus"), track("audio", "pcma")];
        let offered =
            [track("audio", "opus"), track("application", "meta"), track("video", "h264"), track("audio", "pcma")];
        assert_eq!(matched(&offered, &wanted).ok(), Some(vec![Some(1), None, Some(0), Some(2)]));
        assert_eq!(matched(&offered, &[]).ok(), Some(vec![Some(0), Some(1), Some(2), Some(3)]));
    }

    #[test]
    fn a_leg_with_another_codec_or_fewer_tracks_is_refused() {
        let wanted = [track("video", "h264"), track("audio", "opus")];
        assert!(matches!(matched(&[track("video", "h264")], &wanted), Err(LegError::OtherTracks(_))));
        let other = [track("video", "h265"), track("audio", "opus")];
        assert!(matches!(matched(&other, &wanted), Err(LegError::OtherTracks(_))));
        assert!(matches!(matched(&[], &wanted), Err(LegError::NoTracks)));
    }
}

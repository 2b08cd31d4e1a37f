use super::*;
use crate::edge::clock::Clock;
use crate::edge::mediamtx::real_server::{RealServer, find};
use crate::edge::mediamtx::{MediaMtx, MediaMtxSettings};
use crate::node::sample::{ServerSample, SessionState};

/// A resolver, the distribution server whose only path asks it, and an ingestion server.
struct Site {
    resolver: Resolver,
    distribution: RealServer,
    ingestion: RealServer,
    clock: Clock,
}

impl Site {
    /// `None` where something is not installed.
    async fn start(what: &str) -> Option<Self> {
        find("ffmpeg", what)?;
        let ingestion = RealServer::start(what, "paths:\n  all_others:\n").await?;
        let resolver = start(|limits| limits.hold = Duration::from_secs(8)).await;
        let paths = format!(
            "paths:\n  '~^(.+)$':\n    source: rtsp://{}/$G1\n    sourceOnDemand: yes\n    rtspTransport: tcp\n",
            resolver.local_addr()
        );
        let distribution = RealServer::start(what, &paths).await?;
        Some(Self { resolver, distribution, ingestion, clock: Clock::start() })
    }

    async fn sample(&self, server: &RealServer) -> ServerSample {
        let api = format!("http://{}", server.api).parse().unwrap();
        let settings = MediaMtxSettings { api, credentials: None, timeout: Duration::from_secs(5) };
        MediaMtx::new(settings).unwrap().sample(&self.clock).await.unwrap()
    }

    /// The camera delivers.
    async fn is_published(&self, path: &str) {
        wait_for("the camera", async || {
            self.sample(&self.ingestion).await.paths.iter().any(|p| p.name == path && p.available)
        })
        .await;
    }

    /// A reader of the distribution server gets bytes.
    async fn is_read(&self, path: &str) -> bool {
        let sample = self.sample(&self.distribution).await;
        sample.sessions.iter().any(|s| s.path == path && s.state == SessionState::Read && s.outbound_bytes > 10_000)
    }
}

#[tokio::test]
async fn a_reader_gets_media_from_the_owner_over_the_redirect() {
    let Some(site) = Site::start("a 302 followed by the real MediaMTX").await else { return };
    let _camera = site.ingestion.publish("site/cam1");
    site.is_published("site/cam1").await;
    site.resolver.set_owners(vec![owner("site/cam1", "i1", &site.ingestion.rtsp.to_string())]);
    let _reader = site.distribution.read("site/cam1");
    wait_for("media", async || site.is_read("site/cam1").await).await;
    assert_eq!(site.resolver.counters(), ResolverCounters { redirects: 1, ..Default::default() });
    // The owner can tell the fleet's own pull from a viewer.
    let sample = site.sample(&site.ingestion).await;
    let pull = sample.sessions.iter().find(|s| s.state == SessionState::Read).unwrap();
    assert_eq!(pull.query, "pull=d1");
}

#[tokio::test]
async fn a_reader_who_came_before_its_owner_was_known_gets_media() {
    let Some(site) = Site::start("a held question of the real MediaMTX").await else { return };
    let _camera = site.ingestion.publish("cam1");
    site.is_published("cam1").await;
    let mut reader = site.distribution.read("cam1");
    wait_for("a held question", async || site.resolver.counters().holding == 1).await;
    site.resolver.set_owners(vec![owner("cam1", "i1", &site.ingestion.rtsp.to_string())]);
    wait_for("media", async || site.is_read("cam1").await).await;
    assert!(!reader.has_ended());
    assert_eq!(site.resolver.counters(), ResolverCounters { redirects: 1, held: 1, ..Default::default() });
}

#[tokio::test]
async fn its_own_stream_never_loops() {
    let Some(site) = Site::start("a loop of the real MediaMTX").await else { return };
    // The distribution node's own address, under another node's name, as a wrong report would give it; the address
    // that the resolver knows as its own is another, so that only the node id is left to see it by.
    site.resolver.set_owners(vec![owner("cam1", "d1", &site.distribution.rtsp.to_string())]);
    let mut reader = site.distribution.read("cam1");
    wait_for("a held question", async || site.resolver.counters().holding == 1).await;
    wait_for("its end", async || site.resolver.counters().own >= 1).await;
    wait_for("the reader's end", async || reader.has_ended()).await;
    let counters = site.resolver.counters();
    assert_eq!(counters.redirects, 0);
    assert!(counters.held <= 3, "asked again and again: {counters:?}");
}

//! Recordings that cannot be had, or are none: live frames go on, and what is missing is told.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use mtxfleet_ai_client::StreamConfig;
use mtxfleet_tests::lab::wait::wait_for;
use tokio::net::TcpListener;

use crate::faults::{BOUND, Scene};

/// How the agent's recordings are.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// There are none.
    Nothing,
    /// The list is there, the recording is not.
    NotFound,
    ServerError,
    Refused,
    NeverAnswers,
    /// Begins, and then nothing comes.
    Stalls,
    NoMp4,
    /// Cut off in the middle of a box.
    Truncated,
    /// Another kind of box, larger than any memory.
    Huge,
}

const LISTED: &str = r#"{"stream":"cam1","spans":[{"node":"i1","start":0,"seconds":99999999999.0}]}"#;

/// An agent whose recordings are so.
async fn agent(fault: Fault, port: std::net::SocketAddr) -> Result<String> {
    let list = move || async move {
        match fault {
            Fault::Nothing => r#"{"stream":"cam1","spans":[]}"#.into_response(),
            Fault::ServerError => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Fault::Refused => StatusCode::UNAUTHORIZED.into_response(),
            Fault::NeverAnswers => std::future::pending().await,
            _ => LISTED.into_response(),
        }
    };
    let content = move || async move {
        let body: Vec<u8> = match fault {
            Fault::NoMp4 => b"<html>no such thing</html>".repeat(50),
            Fault::Truncated => {
                [&[0, 0, 0, 16][..], b"ftypisom\0\0\0\0", &[0, 0, 4, 0], b"moov\0\0\0\x6cmvhd\0\0"].concat()
            }
            Fault::Huge => [&[0x7f, 0xff, 0xff, 0xff][..], b"moov", &[0; 500]].concat(),
            Fault::Stalls => {
                let begun = futures::stream::once(async { Ok::<_, std::io::Error>(vec![0_u8, 0, 0, 16]) });
                let body = futures::StreamExt::chain(begun, futures::stream::pending());
                return Response::new(Body::from_stream(body));
            }
            _ => return StatusCode::NOT_FOUND.into_response(),
        };
        body.into_response()
    };
    let routes =
        Router::new().route("/v1/recordings/{*stream}", get(list)).route("/v1/playback/{*stream}", get(content));
    let listener = TcpListener::bind(port).await?;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(format!("http://{port}"))
}

#[tokio::test]
async fn a_recording_that_cannot_be_had_delays_live_frames_for_a_bounded_time_and_the_gap_is_told() -> Result<()> {
    let Some(mut scene) = Scene::start("worker library: recordings that cannot be had").await? else { return Ok(()) };
    let faults = [
        Fault::Nothing,
        Fault::NotFound,
        Fault::ServerError,
        Fault::Refused,
        Fault::NeverAnswers,
        Fault::Stalls,
        Fault::NoMp4,
        Fault::Truncated,
        Fault::Huge,
    ];
    let mut workers = Vec::new();
    for fault in faults {
        let agent = agent(fault, scene.fleet.addresses.port()?).await?;
        let recording_timeout = Duration::from_secs(2);
        let config = StreamConfig { agents: vec![agent], recording_timeout, ..scene.config.clone() };
        workers.push((fault, scene.worker(config).await?));
    }
    for (_, worker) in &workers {
        worker.wait_for_frames(25).await?;
    }
    let before: Vec<usize> = workers.iter().map(|(_, worker)| worker.frames()).collect();
    scene.balancer.point_to(scene.fleet.addresses.port()?);
    scene.balancer.cut();
    for (_, worker) in &workers {
        let mut status = worker.status.clone();
        let lost = tokio::time::timeout(BOUND, status.wait_for(|status| status.leg.is_none())).await;
        lost.context("the leg is there yet")??;
    }
    // So that frames are missed for sure.
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.balancer.point_to(scene.fleet.nodes["b"].rtsp);
    let back = Instant::now();
    for ((fault, worker), before) in workers.iter().zip(before) {
        worker.wait_for_frames(before + 50).await.with_context(|| format!("{fault:?}"))?;
    }
    assert!(back.elapsed() < Duration::from_secs(20), "{:?}", back.elapsed());
    for (fault, worker) in workers {
        wait_for("the recording to be given up", BOUND, async || {
            let status = worker.status.borrow().clone();
            if status.replay.is_none() { Ok(()) } else { Err(format!("{fault:?}: {status:?}")) }
        })
        .await?;
        let outcome = worker.finish().await?;
        let found = outcome.comparison;
        assert_eq!((found.duplicated, found.out_of_order, found.foreign), (0, 0, 0), "{fault:?} {found:?}");
        assert!(found.lost > 0 && outcome.got.gaps.len() == 1, "{fault:?} {found:?} {:?}", outcome.got.gaps);
        assert_eq!(outcome.counters.replayed, 0);
    }
    Ok(())
}

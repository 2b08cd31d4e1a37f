//! The contract that the stand-in and the real MediaMTX keep alike.
//!
//! Every case runs on the stand-in, and on the real server where one is found; cases about pulling also with one of
//! them pulling from the other. The last lines say which servers were tested. A word on the command line runs the
//! cases whose name contains it.

mod api;
mod recording;
mod rtsp;
mod servers;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use futures::{StreamExt, future::LocalBoxFuture};
use mtxfleet_tests::{
    notes,
    server_binary::{self, ServerBinary, ServerKind},
};
use servers::{Pair, Samples};

/// Cases at a time. They mostly wait, and the machine may have two cores.
const AT_A_TIME: usize = 4;

const CASE_BOUND: Duration = Duration::from_secs(60);

/// One thing that must hold.
struct Case {
    name: &'static str,
    /// Whether it also runs with unlike servers.
    mixed: bool,
    run: fn(Arc<Pair>) -> LocalBoxFuture<'static, anyhow::Result<()>>,
}

/// `case!(module::function)`, or `case!(mixed module::function)`.
macro_rules! case {
    (mixed $module:ident::$name:ident) => {
        Case { name: stringify!($name), mixed: true, run: |pair| Box::pin($module::$name(pair)) }
    };
    ($module:ident::$name:ident) => {
        Case { name: stringify!($name), mixed: false, run: |pair| Box::pin($module::$name(pair)) }
    };
}

const CASES: &[Case] = &[
    case!(rtsp::every_codec_is_published_and_read),
    case!(mixed rtsp::a_pull_passes_every_packet_on_unchanged),
    case!(rtsp::ffprobe_reads_through_a_pull),
    case!(rtsp::a_pull_follows_redirects_and_keeps_its_credentials),
    case!(rtsp::a_reader_of_a_warm_path_starts_at_once_with_any_packet),
    case!(mixed rtsp::the_end_of_the_source_closes_readers_and_the_next_one_starts_it_again),
    case!(rtsp::an_on_demand_source_ends_after_its_last_reader),
    case!(rtsp::readers_of_an_unknown_source_are_held_and_then_refused),
    case!(rtsp::a_path_nobody_publishes_is_not_found),
    case!(rtsp::reading_needs_the_right_credentials),
    case!(rtsp::only_tcp_is_served),
    case!(rtsp::a_second_publisher_takes_over),
    case!(rtsp::a_reader_that_is_too_slow_loses_packets_and_they_are_counted),
    case!(api::paths_have_the_fields_that_were_captured),
    case!(api::a_path_that_waits_for_its_source_is_listed_as_not_available),
    case!(api::sessions_show_who_reads_what_with_which_query),
    case!(api::lists_are_paginated),
    case!(api::a_kicked_reader_is_cut_off),
    case!(api::api_and_metrics_need_credentials),
    case!(api::a_path_is_added_pulled_replaced_and_deleted_by_the_api),
    case!(recording::a_recording_holds_the_pictures_that_a_reader_saw),
    case!(recording::what_was_recorded_is_there_after_a_crash_and_goes_on_in_a_second_piece),
    case!(recording::playback_refuses_what_it_cannot_give),
    case!(api::metrics_are_filtered_by_type),
    case!(api::lists_of_protocols_that_are_off_are_not_there),
];

#[tokio::main]
async fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if std::env::args().any(|argument| argument == "--list") {
        CASES.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    // Already installed is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run_all(filter.as_deref()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contract: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_all(filter: Option<&str>) -> anyhow::Result<()> {
    let cases: Vec<&Case> = CASES.iter().filter(|case| filter.is_none_or(|word| case.name.contains(word))).collect();
    if cases.is_empty() {
        // `cargo test WORD` gives the word to every test program of the workspace.
        println!("contract: no case has {:?} in its name", filter.unwrap_or_default());
        return Ok(());
    }
    let stand_in = server_binary::find_stand_in()?;
    let real = server_binary::find_real()?;
    let samples = Arc::new(Samples::encode().await.context("encode the samples")?);
    let mut runs = Vec::new();
    for case in cases {
        let mut add = |ingestion: &ServerBinary, distribution: &ServerBinary| {
            runs.push(run(case, ingestion.clone(), distribution.clone(), samples.clone()));
        };
        add(&stand_in, &stand_in);
        if let Ok(real) = &real {
            add(real, real);
            if case.mixed {
                add(&stand_in, real);
                add(real, &stand_in);
            }
        }
    }
    let total = runs.len();
    let failed = futures::stream::iter(runs)
        .buffer_unordered(AT_A_TIME)
        .filter(|passed| std::future::ready(!passed))
        .count()
        .await;
    println!("contract: {} passed, {failed} failed", total - failed);
    notes::ran("contract suite, on the stand-in");
    match real {
        Ok(real) => notes::ran(&format!("contract suite, on {}", real.kind)),
        Err(reasons) => notes::skipped("contract suite on the real MediaMTX", &reasons.join("; ")),
    }
    if failed > 0 {
        bail!("{failed} cases failed");
    }
    Ok(())
}

/// Runs one case on servers of its own; false when it failed.
async fn run(case: &Case, ingestion: ServerBinary, distribution: ServerBinary, samples: Arc<Samples>) -> bool {
    let on = match (&ingestion.kind, &distribution.kind) {
        (ServerKind::StandIn, ServerKind::StandIn) => "stand-in",
        (ServerKind::Real { .. }, ServerKind::Real { .. }) => "mediamtx",
        (ServerKind::StandIn, _) => "mediamtx pulls from stand-in",
        (_, ServerKind::StandIn) => "stand-in pulls from mediamtx",
    };
    let started = std::time::Instant::now();
    let body = case.run;
    // A thread of its own: a panic fails this case only, and stopping its processes holds up no other.
    let task = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let pair = Arc::new(Pair::start(ingestion, distribution, samples).await?);
            let outcome = match tokio::time::timeout(CASE_BOUND, body(pair.clone())).await {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow::anyhow!("not done after {CASE_BOUND:?}")),
            };
            outcome.map_err(|error| anyhow::anyhow!("{error:#}\n{}", pair.logs()))
        })
    });
    let outcome = task.await.unwrap_or_else(|panic| Err(panic.into()));
    let took = started.elapsed().as_secs_f32();
    match outcome {
        Ok(()) => println!("test {} [{on}] ... ok ({took:.1} s)", case.name),
        Err(ref error) => println!("test {} [{on}] ... FAILED ({took:.1} s)\n{error:#}", case.name),
    }
    outcome.is_ok()
}

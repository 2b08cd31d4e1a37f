//! A few planned handovers of several streams at once; `benches/src/bin/handovers.rs` makes thousands.

use mtxfleet_tests::handovers::{self, Plan};
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_tests::{lab, notes};

const PLAN: Plan = Plan { streams: 8, moves: 30, control_moves: 4 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handovers_over_large_skews_lose_nothing_where_plain_readers_do_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => handovers_lose_nothing(&server).await,
        Err(reasons) => notes::skipped("handovers over large skews on MediaMTX itself", &reasons.join("; ")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handovers_over_large_skews_lose_nothing_where_plain_readers_do_on_the_stand_in() {
    handovers_lose_nothing(&server_binary::find_stand_in().expect("built")).await;
}

async fn handovers_lose_nothing(server: &ServerBinary) {
    let _alone = lab::alone().await;
    notes::ran(&format!("handovers over large skews, on {}", server.kind));
    let outcome = handovers::run(server, PLAN).await.expect("every worker moves");
    assert!(outcome.tally.is_perfect(), "{:?}", outcome.tally);
    assert_eq!(outcome.tally.handovers as usize, PLAN.moves);
    let lost: u64 = outcome.control.iter().map(|found| found.lost).sum();
    assert!(lost > 0, "plain readers lost nothing, so this proves nothing: {:?}", outcome.control);
    let over = outcome.moves.iter().map(|moved| moved.pause.saturating_sub(moved.skew)).max().unwrap_or_default();
    // The bench holds this against the design's bound; here other tests may have both cores.
    notes::ran(&format!("handovers on {}: paused {} ms over the skew at most", server.kind, over.as_millis()));
}

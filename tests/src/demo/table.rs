//! What the drain did to every frame, as a table.

use crate::lab::Lab;
use crate::lab::audience::{ReaderResult, Results};

pub(super) fn print(lab: &Lab, results: &Results) {
    let kind = |stream: &str| {
        let camera = lab.cameras.iter().find(|camera| camera.name == stream);
        camera.map_or("", |camera| camera.kind.words())
    };
    println!(
        "\n{:<34} {:>6} {:>8} {:>5} {:>5} {:>8} {:>10} {:>9}",
        "", "sent", "received", "lost", "twice", "disorder", "max pause", "max delay"
    );
    let part = |title: &str, rows: &[ReaderResult]| {
        println!("{title}");
        for row in rows {
            let frames = &row.frames;
            let who = format!("  {:<15} {:<16}", row.worker, kind(&row.stream));
            let cut = match (row.times_cut_off, row.undecodable) {
                (Some(0), _) => "   not on a drained node".to_owned(),
                (Some(times), Some(frames)) => format!("   cut off {times}x; {frames} more not decodable"),
                _ => String::new(),
            };
            let foreign = if frames.foreign > 0 { format!("   {} damaged", frames.foreign) } else { String::new() };
            println!(
                "{who:<34} {:>6} {:>8} {:>5} {:>5} {:>8} {:>7} ms {:>6} ms{cut}{foreign}",
                frames.sent,
                frames.received,
                frames.lost,
                frames.duplicated,
                frames.out_of_order,
                frames.longest_pause_ms,
                frames.longest_delay_ms,
            );
        }
    };
    part("AI workers, with mtxfleet's client", &results.workers);
    part("The same drains met by plain readers that reconnect at once", &results.control);
    let of_all = results.workers.iter().chain(&results.control);
    let camera = of_all.clone().map(|row| row.frames.camera_pause_ms).max().unwrap_or_default();
    let interval = of_all.map(|row| row.frames.frame_interval_ms).max().unwrap_or_default();
    println!("\nThe cameras send a frame every {interval} ms; the longest pause of any of them was {camera} ms.");
    println!("Max delay: how much later than usual a frame came, against the same frame at the ingestion node.");
    println!("Not decodable: frames that come after a reconnection and before the next keyframe.");
    println!("Frames are compared by content with what a plain reader recorded at the ingestion node.");
}

//! A worker of a screenful: reads one camera for ever, counts pictures, and says what happens to it.
//!
//! ```sh
//! cargo run --example worker -- rtsp://live.example:8554 cam1 anpr-1 berlin redis://redis.example:6379
//! ```
//! Drain the node it reads from, and watch the leg change while the pictures go on.

use mtxfleet_ai_client::{Item, Stream, StreamConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(camera), Some(worker), Some(cluster)) = (args.next(), args.next(), args.next(), args.next())
    else {
        anyhow::bail!("usage: worker URL CAMERA WORKER CLUSTER [REDIS]");
    };
    let config = StreamConfig { redis: args.next(), ..StreamConfig::new(camera, worker, url, cluster) };
    let mut frames = Stream::open(config).await?;
    frames.tracks().iter().for_each(|track| println!("{track}"));
    let mut status = frames.watch();
    let (mut leg, mut pictures, mut bytes) = (None, 0_u64, 0);
    loop {
        tokio::select! {
            item = frames.next() => match item.transpose()? {
                Some(Item::Frame(frame)) => {
                    pictures += u64::from(frame.track == 0);
                    bytes += frame.data.len();
                    if frame.track == 0 && pictures.is_multiple_of(100) {
                        println!("{pictures} pictures, {bytes} bytes; now at {:?}", frame.wall);
                    }
                }
                Some(Item::Discontinuity(gap)) => println!("a gap: {gap:?}"),
                None => break,
            },
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().leg.clone();
                if now != leg {
                    println!("reading through {now:?}");
                    leg = now;
                }
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    println!("{:?}", frames.close().await);
    Ok(())
}

//! Cameras that the fleet pulls: placed, put back, taken over, moved, and never talked about with their passwords.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use mtxfleet_leader::placement;
use mtxfleet_tests::lab::camera::{Camera, CameraKind};
use mtxfleet_tests::lab::camera_box::{CameraBox, PASSWORD, USER};
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, programs};
use mtxfleet_tests::notes;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{MemberView, NodeId, Role, StreamName, StreamView};

const NAMES: [&str; 8] =
    ["gate", "yard", "site/north", "site/south", "site/east", "site/west", "site/roof", "site/cellar"];

/// A camera that nobody answers for.
fn away() -> String {
    format!(
        "[[camera]]\nname = \"away\"\nurl = \"rtsp://127.0.0.1:1/away\"\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n"
    )
}

/// Dead after some 5 s, taken at once, started by MediaMTX in moments; a busy machine takes longer for each.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

type Owners = BTreeMap<StreamName, NodeId>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cameras_are_placed_put_back_taken_over_and_moved_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("no panic");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => a_life_of_cameras(server).await.expect("as it should be"),
        Err(reasons) => notes::skipped("pulled cameras on MediaMTX itself", &reasons.join("; ")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cameras_are_placed_put_back_taken_over_and_moved_on_the_stand_in() {
    a_life_of_cameras(server_binary::find_stand_in().expect("built")).await.expect("as it should be");
}

async fn a_life_of_cameras(server: ServerBinary) -> Result<()> {
    let _alone = lab::alone().await;
    let cameras = "file = \"../cameras.toml\"\nsettle = \"2s\"\nlet_go_after = \"1s\"".to_owned();
    let settings = Settings { cameras, ..Settings::default() };
    let builder = Lab::builder().ingestion(3).distribution(1).settings(settings).server(server);
    let mut lab = builder.start().await?;
    notes::ran(&format!("pulled cameras in a whole fleet, on {}", lab.server.kind));
    let the_box = CameraBox::start(lab.folder(), &lab.logs()).await?;
    let inventory = lab.folder().join("cameras.toml");

    // The unreachable one is first: it must hold up no other.
    replace(&inventory, &(away() + &the_box.inventory(NAMES)))?;
    let all = nodes(&lab);
    let placed = wait_placed(&lab, &all, TAKEN_OVER_WITHIN).await.context("at first")?;
    wait_for("the unreachable camera to be named", PATIENCE, async || -> Result<()> {
        let members = members(&lab).await?;
        let named = members.iter().filter_map(|member| member.cameras.as_ref());
        ensure!(named.clone().any(|report| report.unreachable.first.iter().any(|name| name.as_str() == "away")));
        Ok(())
    })
    .await?;

    let restarted = NodeId::new("ingest-1")?;
    let node = lab.node_mut(&restarted)?;
    node.server.process.kill();
    node.server.process.restart()?;
    node.server.wait_ready().await?;
    assert_eq!(wait_placed(&lab, &all, TAKEN_OVER_WITHIN).await.context("MediaMTX was killed")?, placed);

    let killed = NodeId::new("ingest-2")?;
    // Its registry entry is to go though it never comes back.
    let at = lab.node(&killed)?.server.at.rtsp.to_string();
    let published = Camera::start("published", CameraKind::H264, &at, &lab.logs())?;
    wait_for("the published camera in the registry", PATIENCE, async || -> Result<()> {
        let owned = registered(&lab, &killed).await?;
        ensure!(owned.iter().any(|name| name == "published"), "{owned:?}");
        Ok(())
    })
    .await?;
    let node = lab.node_mut(&killed)?;
    node.agent.process.kill();
    node.server.process.kill();
    let left: BTreeSet<NodeId> = all.iter().filter(|node| **node != killed).cloned().collect();
    let without = wait_placed(&lab, &left, TAKEN_OVER_WITHIN).await.context("a node was killed")?;
    says_taken(&lab, &killed).await?;
    drop(published);
    wait_for("no entry of the killed node in the registry", PATIENCE, async || -> Result<()> {
        let owned = registered(&lab, &killed).await?;
        ensure!(owned.is_empty(), "{owned:?}");
        Ok(())
    })
    .await?;

    let node = lab.node_mut(&killed)?;
    node.server.process.restart()?;
    node.server.wait_ready().await?;
    node.restart_agent().await?;
    // Until the move is over, each camera is with somebody at all times.
    let mut gaps: BTreeSet<&str> = BTreeSet::new();
    let back = wait_for("the node that came to have its share", TAKEN_OVER_WITHIN, async || -> Result<Owners> {
        let streams = streams(&lab, &all).await?;
        let is_nowhere = |name: &&&str| !streams.iter().any(|s| s.stream.flowing && s.stream.name.as_str() == **name);
        gaps.extend(NAMES.iter().filter(is_nowhere));
        is_placed(&lab, &all).await
    })
    .await?;
    assert_eq!(gaps, BTreeSet::new(), "they were nowhere for a moment");
    assert_eq!(back, placed);
    let share = placement::bound(NAMES.len() + 1, all.len());
    assert!(placement::moved(&without, &back) <= share + 1, "{without:?}\n{back:?}");

    // A wrong entry and a name that stands twice: the others are in force, and these stay where they are pulled.
    let gate = format!("[[camera]]\nname = \"gate\"\nurl = \"rtsp://{USER}:{PASSWORD}@127.0.0.1:1/x\"\n");
    let twice = the_box.inventory(["yard", "yard"]);
    let good = the_box.inventory(NAMES.into_iter().filter(|name| !["gate", "yard"].contains(name)));
    replace(&inventory, &(gate + &away() + &twice + &good))?;
    let left_out = [StreamName::new("gate")?, StreamName::new("yard")?];
    said(&lab, "camera.url", &left_out).await.context("wrong entries")?;
    assert_eq!(is_placed(&lab, &all).await?, placed);

    // No list of cameras at all: the last one that was stays.
    replace(&inventory, "[[camera\n")?;
    said(&lab, "no valid TOML", &left_out).await.context("a file that is cut short")?;
    assert_eq!(is_placed(&lab, &all).await?, placed);
    says_no_password(&lab).await
}

/// Waits until all that pull say what is wrong with the inventory, and have all cameras in force but those left out.
async fn said(lab: &Lab, what: &str, left_out: &[StreamName]) -> Result<()> {
    wait_for("what is wrong with the inventory", PATIENCE, async || -> Result<()> {
        for member in members(lab).await?.iter().filter(|member| is_ingestion(member)) {
            let report = member.cameras.as_ref().context("no report")?;
            ensure!(report.problem.as_ref().is_some_and(|problem| problem.contains(what)), "{report:?}");
            ensure!(report.wrong.first == left_out, "{report:?}");
            ensure!(report.listed as usize == NAMES.len() + 1 - left_out.len(), "{report:?}");
        }
        Ok(())
    })
    .await
}

fn nodes(lab: &Lab) -> BTreeSet<NodeId> {
    lab.of_role(Role::Ingestion).map(|node| node.id.clone()).collect()
}

fn is_ingestion(member: &MemberView) -> bool {
    member.facts.as_ref().is_some_and(|facts| facts.role == Role::Ingestion)
}

/// As an operator's tools do it: never half a file.
fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, path)?)
}

async fn members(lab: &Lab) -> Result<Vec<MemberView>> {
    Ok(lab.node(&NodeId::new("dist-1")?)?.agent.fleet().await?.members)
}

/// The streams that the registry says a node owns.
async fn registered(lab: &Lab, owner: &NodeId) -> Result<Vec<String>> {
    let mut redis = lab.redis.as_ref().context("there is a Redis")?.connect().await?;
    let key = mtxfleet_wire::RegistryKeys::new(&lab::CLUSTER.parse()?).streams();
    let streams: BTreeMap<String, String> = redis::cmd("HGETALL").arg(&key).query_async(&mut redis).await?;
    let owned = |text: &String| -> Result<bool> {
        let record: mtxfleet_wire::StreamRecord = serde_json::from_str(text)?;
        Ok(record.owner == *owner)
    };
    let mut names = Vec::new();
    for (name, text) in streams {
        if owned(&text).with_context(|| text.clone())? {
            names.push(name);
        }
    }
    Ok(names)
}

/// What the distribution node has heard that these own.
async fn streams(lab: &Lab, nodes: &BTreeSet<NodeId>) -> Result<Vec<StreamView>> {
    let streams = lab.node(&NodeId::new("dist-1")?)?.agent.streams().await?;
    Ok(streams.into_iter().filter(|view| view.stream.owned && nodes.contains(&view.node)).collect())
}

async fn wait_placed(lab: &Lab, nodes: &BTreeSet<NodeId>, bound: Duration) -> Result<Owners> {
    wait_for(format!("every camera to flow at its place among {nodes:?}"), bound, async || is_placed(lab, nodes).await)
        .await
}

/// Every camera delivers at the node where the placement has it, and at no other.
async fn is_placed(lab: &Lab, nodes: &BTreeSet<NodeId>) -> Result<Owners> {
    let mut names: Vec<StreamName> = NAMES.iter().map(|name| StreamName::new(*name)).collect::<Result<_, _>>()?;
    names.push(StreamName::new("away")?);
    let mut expected = placement::place(&names, nodes);
    for node in nodes {
        let here = expected.values().filter(|target| *target == node).count();
        ensure!(here <= placement::bound(names.len(), nodes.len()), "{node} has {here}");
    }
    expected.retain(|name, _| name.as_str() != "away");
    let mut seen = Owners::new();
    let is_published = |view: &StreamView| view.stream.name.as_str() == "published";
    for view in streams(lab, nodes).await?.into_iter().filter(|view| !is_published(view)) {
        ensure!(view.stream.flowing, "{} does not flow at {}", view.stream.name, view.node);
        let other = seen.insert(view.stream.name.clone(), view.node.clone());
        ensure!(other.is_none(), "{} is at {} and at {other:?}", view.stream.name, view.node);
    }
    ensure!(seen == expected, "{seen:?}, not {expected:?}");
    Ok(seen)
}

/// Those that took the killed node's cameras said so, by name.
async fn says_taken(lab: &Lab, killed: &NodeId) -> Result<()> {
    let redis = lab.redis.as_ref().context("there is a Redis")?.url();
    let mut connection = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    let key = mtxfleet_wire::RegistryKeys::new(&lab::CLUSTER.parse()?).event_log();
    wait_for("the event camera.taken", PATIENCE, async || -> Result<()> {
        let log: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(&key).arg("-").arg("+").query_async(&mut connection).await?;
        let from = format!("\"from\":\"{killed}\"");
        let events = log.iter().flat_map(|(_, fields)| fields);
        let taken: Vec<&String> = events.filter(|event| event.contains("camera.taken")).collect();
        ensure!(taken.iter().any(|event| event.contains(&from)), "{taken:?}");
        Ok(())
    })
    .await
}

/// Neither logs, nor what agents answer (all of gossip among it), print or keep on disk, nor Redis hold the cameras'
/// password, plain or as it stands in a header.
async fn says_no_password(lab: &Lab) -> Result<()> {
    let mut texts: Vec<(String, Vec<u8>)> = Vec::new();
    let mut folders = vec![lab.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let is_source = path.file_name().is_some_and(|name| name == "cameras.toml" || name == "camera-box.yml");
            match path.is_dir() {
                true => folders.push(path),
                false if is_source => {}
                // Programs put files in others' places.
                false => texts.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default())),
            }
        }
    }
    ensure!(
        texts.iter().any(|(place, _)| place.contains("ingest-1/state")),
        "no state of an agent: {:?}",
        lab.folder()
    );
    let client = reqwest::Client::new();
    let pages = ["metrics", "livez", "readyz", "v1/node", "v1/fleet", "v1/streams", "v1/drain", "v1/orchestrators"];
    for node in &lab.nodes {
        for page in pages.into_iter().chain(["v1/decisions", "v1/availability", "v1/recordings/gate", ""]) {
            let url = format!("{}/{page}", node.agent.url());
            texts.push((url.clone(), client.get(&url).send().await?.bytes().await?.into()));
        }
        for command in ["streams", "status", "availability", "decisions"] {
            let program = programs::of_workspace("mtxfleet")?;
            let mut run = tokio::process::Command::new(program);
            run.args([command, "--agent", &node.agent.url()]).env("MTXFLEET_TOKEN", &lab.token);
            let output = run.kill_on_drop(true).output().await?;
            texts.push((format!("mtxfleet {command}"), [output.stdout, output.stderr].concat()));
        }
    }
    let mut redis = lab.redis.as_ref().context("there is a Redis")?.connect().await?;
    // What DUMP gives is then plain.
    let _: String = redis::cmd("CONFIG").arg(&["SET", "rdbcompression", "no"]).query_async(&mut redis).await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    ensure!(keys.iter().any(|key| key.ends_with(":streams")), "{keys:?}");
    for key in keys {
        let dump: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query_async(&mut redis).await?;
        texts.push((key, dump.unwrap_or_default()));
    }
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for (place, text) in texts {
        for secret in [PASSWORD, &basic] {
            let holds = text.windows(secret.len()).any(|part| part == secret.as_bytes());
            ensure!(!holds, "{place} holds the cameras' password");
        }
    }
    Ok(())
}

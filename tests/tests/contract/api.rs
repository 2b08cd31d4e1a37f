//! Cases about the control API and the metrics, as far as the agent uses them.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use mtxfleet_tests::{lab::wait::wait_for, plain_reader::PlainReader};
use reqwest::Method;
use serde_json::Value;

use crate::servers::{Dialogue, FLEET, Pair, SOON, Sample};

/// What MediaMTX v1.20.1 answered; see the README beside the files.
macro_rules! captured {
    ($file:literal) => {
        include_str!(concat!("../../data/mediamtx-1.20.1/", $file))
    };
}

pub async fn paths_have_the_fields_that_were_captured(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("site/cam2", Sample::H264WithAac).await?;
    let published = pair.ingestion.get("/v3/paths/get/site/cam2").await?;
    same_shape(captured!("paths_get.publisher.json"), &published)?;
    ensure!(published["name"] == "site/cam2" && published["confName"] == "all_others", "{published}");
    ensure!(published["source"]["type"] == "rtspSession", "{published}");
    ensure!(published["tracks"] == serde_json::json!(["H264", "MPEG-4 Audio"]), "{published}");

    let reader = PlainReader::start(&pair.distribution.url("site/cam2"));
    ensure!(reader.wait_for(25, SOON).await, "{:?}", reader.ended());
    let list = pair.distribution.get("/v3/paths/list").await?;
    same_shape(captured!("paths_list.distribution.json"), &list)?;
    let pulled = &list["items"][0];
    ensure!(pulled["available"] == true && pulled["source"]["type"] == "rtspSource", "{pulled}");
    ensure!(pulled["readers"].as_array().is_some_and(|readers| readers.len() == 1), "{pulled}");
    ensure!(pulled["readers"][0]["type"] == "rtspSession", "{pulled}");
    let bytes = |path: &Value, name: &str| path[name].as_u64().unwrap_or_default();
    ensure!(bytes(pulled, "inboundBytes") > 0 && bytes(pulled, "outboundBytes") > 0, "{pulled}");
    wait_for("the bytes to grow", SOON, async || -> Result<()> {
        let later = pair.distribution.get("/v3/paths/get/site/cam2").await?;
        ensure!(bytes(&later, "inboundBytes") > bytes(pulled, "inboundBytes"), "{later}");
        ensure!(bytes(&later, "outboundBytes") > bytes(pulled, "outboundBytes"), "{later}");
        Ok(())
    })
    .await?;
    let info = pair.distribution.get("/v3/info").await?;
    same_shape(captured!("info.json"), &info)?;
    ensure!(info["version"].as_str().is_some_and(|version| version.starts_with('v')), "{info}");
    Ok(())
}

pub async fn a_path_that_waits_for_its_source_is_listed_as_not_available(pair: Arc<Pair>) -> Result<()> {
    let mut dialogue = Dialogue::open(pair.distribution.rtsp).await?;
    let uri = format!("DESCRIBE rtsp://{}/nope", pair.distribution.rtsp);
    let asking = tokio::spawn(async move { dialogue.call(&uri, &[]).await });
    let waiting = wait_for("the path to be listed", SOON, async || pair.distribution.get("/v3/paths/get/nope").await);
    let waiting = waiting.await?;
    same_shape(captured!("paths_get.waiting_for_source.json"), &waiting)?;
    ensure!(waiting["available"] == false && waiting["ready"] == false, "{waiting}");
    ensure!(waiting["readyTime"].is_null() && waiting["readers"] == serde_json::json!([]), "{waiting}");
    asking.await??;
    Ok(())
}

pub async fn sessions_show_who_reads_what_with_which_query(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let reader = PlainReader::start(&pair.distribution.url("cam1?worker=w1&leg=2"));
    ensure!(reader.wait_for(5, SOON).await, "{:?}", reader.ended());
    let list = pair.distribution.get("/v3/rtspsessions/list").await?;
    same_shape(captured!("rtspsessions_list.distribution.json"), &list)?;
    ensure!(list["itemCount"] == 1, "{list}");
    let session = &list["items"][0];
    ensure!(session["state"] == "read" && session["path"] == "cam1", "{session}");
    ensure!(session["query"] == "worker=w1&leg=2", "{session}");
    ensure!(session["userAgent"] == "mtxfleet-plain-reader" && session["transport"] == "TCP", "{session}");
    let address: SocketAddr = session["remoteAddr"].as_str().context("an address")?.parse()?;
    ensure!(address.ip().is_loopback(), "{address}");
    ensure!(session["outboundBytes"].as_u64() > Some(0) && session["inboundBytes"] == 0, "{session}");
    ensure!(session["outboundRTPPacketsDiscarded"] == 0, "{session}");
    let id = session["id"].as_str().context("an id")?;
    let path = pair.distribution.get("/v3/paths/get/cam1").await?;
    ensure!(path["readers"][0]["id"] == id, "{path}");
    ensure!(pair.distribution.get(&format!("/v3/rtspsessions/get/{id}")).await?["id"] == id);

    let sessions = pair.ingestion.list("rtspsessions").await?;
    let publisher = sessions.iter().find(|session| session["state"] == "publish").context("the publisher")?;
    ensure!(publisher["inboundBytes"].as_u64() > Some(0) && publisher["path"] == "cam1", "{publisher}");
    let published = pair.ingestion.get("/v3/paths/get/cam1").await?;
    ensure!(published["source"]["id"] == publisher["id"], "{published}");
    reader.stop().await;
    wait_for("the session to go", SOON, async || -> Result<()> {
        let left = pair.distribution.list("rtspsessions").await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

pub async fn lists_are_paginated(pair: Arc<Pair>) -> Result<()> {
    let server = &pair.ingestion;
    let _cameras = [
        pair.camera("c", Sample::H264).await?,
        pair.camera("a", Sample::H264).await?,
        pair.camera("b", Sample::H264).await?,
    ];
    for (query, names, pages) in [
        ("", &["a", "b", "c"][..], 1),
        ("?itemsPerPage=2", &["a", "b"], 2),
        ("?itemsPerPage=2&page=1", &["c"], 2),
        ("?itemsPerPage=3", &["a", "b", "c"], 1),
        ("?page=7", &[], 1),
    ] {
        let page = server.get(&format!("/v3/paths/list{query}")).await?;
        let seen: Vec<_> = page["items"].as_array().context("items")?.iter().map(|path| path["name"].clone()).collect();
        ensure!(seen == names, "{query}: {seen:?}");
        ensure!(page["itemCount"] == 3 && page["pageCount"] == pages, "{query}: {page}");
    }
    let sessions = server.get("/v3/rtspsessions/list?itemsPerPage=1&page=2").await?;
    ensure!(sessions["itemCount"] == 3 && sessions["pageCount"] == 3, "{sessions}");
    let empty = pair.distribution.get("/v3/rtspsessions/list").await?;
    ensure!(empty == serde_json::json!({ "itemCount": 0, "pageCount": 0, "items": [] }), "{empty}");
    for bad in ["itemsPerPage=0", "itemsPerPage=x", "page=-1"] {
        let (status, body) = server.request(Method::GET, &format!("/v3/paths/list?{bad}")).await?;
        ensure!(status == 400, "{bad}: {status} {body}");
        same_shape(captured!("paths_list.bad_page_size.json"), &serde_json::from_str(&body)?)?;
    }
    Ok(())
}

pub async fn a_kicked_reader_is_cut_off(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let server = &pair.distribution;
    let [kicked, other] = [(); 2].map(|()| PlainReader::start(&server.url("cam1?who=kicked")));
    ensure!(kicked.wait_for(2, SOON).await && other.wait_for(2, SOON).await, "{kicked:?} {other:?}");
    let id = server.list("rtspsessions").await?[0]["id"].as_str().context("an id")?.to_owned();
    let kick = format!("/v3/rtspsessions/kick/{id}");
    let (status, body) = server.request(Method::POST, &kick).await?;
    ensure!(status == 200 && body == r#"{"status":"ok"}"#, "{status} {body}");
    tokio::select! {
        why = kicked.wait_for_end(SOON) => ensure!(why.is_some(), "nobody was cut off"),
        why = other.wait_for_end(SOON) => ensure!(why.is_some(), "nobody was cut off"),
    }
    let rest = if kicked.ended().is_some() { &other } else { &kicked };
    ensure!(rest.wait_for(rest.frames().len() + 10, SOON).await, "both were cut off: {:?}", rest.ended());
    let (status, body) = server.request(Method::POST, &kick).await?;
    ensure!(status == 404, "kicked twice: {status} {body}");
    same_shape(captured!("rtspsessions_get.unknown.json"), &serde_json::from_str(&body)?)?;
    let (status, body) = server.request(Method::POST, "/v3/rtspsessions/kick/me").await?;
    ensure!(status == 400, "{status} {body}");
    let (status, _) = server.request(Method::GET, &kick).await?;
    ensure!(status == 404, "kicked by GET: {status}");

    let publisher = pair.ingestion.list("rtspsessions").await?;
    let publisher = publisher.iter().find(|session| session["state"] == "publish").context("the publisher")?;
    let kick = format!("/v3/rtspsessions/kick/{}", publisher["id"].as_str().context("an id")?);
    ensure!(pair.ingestion.request(Method::POST, &kick).await?.0 == 200);
    pair.ingestion.wait_gone("cam1").await
}

pub async fn api_and_metrics_need_credentials(pair: Arc<Pair>) -> Result<()> {
    let http = reqwest::Client::new();
    let urls = [format!("http://{}/v3/info", pair.ingestion.api), format!("http://{}/metrics", pair.ingestion.metrics)];
    for url in urls {
        let answer = http.get(&url).timeout(SOON).send().await?;
        ensure!(answer.status() == 401, "{url}: {}", answer.status());
        ensure!(answer.headers().contains_key("www-authenticate"), "{url} does not ask for credentials");
        same_shape(captured!("unauthorized.json"), &answer.json().await?)?;
        let user = FLEET.split(':').next();
        let answer = http.get(&url).basic_auth(user.unwrap_or_default(), Some("wrong")).timeout(SOON).send().await?;
        ensure!(answer.status() == 401, "{url}, wrong credentials: {}", answer.status());
    }
    Ok(())
}

pub async fn a_path_is_added_pulled_replaced_and_deleted_by_the_api(pair: Arc<Pair>) -> Result<()> {
    const MARK: &str = "rpiCameraTextOverlay";
    let server = &pair.ingestion;
    let source = |camera: &str| format!("rtsp://{FLEET}@{}/{camera}", server.rtsp);
    let settings = |camera: &str, mark: &str| serde_json::json!({ "source": source(camera), "sourceOnDemand": false, "rtspTransport": "tcp", MARK: mark });
    let before = server.list("config/paths").await?;
    ensure!(before.iter().all(|path| path[MARK].is_string()), "{before:?}");
    let _camera = pair.camera("cam1", Sample::H264).await?;

    // A source that nobody answers for: listed, not available. The server answers before it has taken the change in.
    ensure!(server.configure("add", "site/copy", &settings("nobody", "ours 1")).await?.0 == 200);
    wait_for("a path without a source to be listed", SOON, async || {
        let waiting = server.get("/v3/paths/get/site/copy").await?;
        ensure!(waiting["available"] == false && waiting["confName"] == "site/copy", "{waiting}");
        Ok(())
    })
    .await?;
    let (status, body) = server.configure("add", "site/copy", &settings("cam1", "ours 2")).await?;
    ensure!(status == 400 && body.contains("already exists"), "{status} {body}");
    let seen = server.get("/v3/config/paths/get/site/copy").await?;
    ensure!(seen[MARK] == "ours 1" && seen["name"] == "site/copy", "{seen}");

    ensure!(server.configure("replace", "site/copy", &settings("cam1", "ours 2")).await?.0 == 200);
    server.wait_available("site/copy").await?;
    let marks = server.list("config/paths").await?;
    ensure!(marks.iter().any(|path| path["name"] == "site/copy" && path[MARK] == "ours 2"), "{marks:?}");
    ensure!(marks.len() == before.len() + 1, "{marks:?}");
    let reader = PlainReader::start(&source("site/copy"));
    ensure!(reader.wait_for(5, SOON).await, "{:?}", reader.ended());

    let delete = "/v3/config/paths/delete/site/copy";
    ensure!(server.request(Method::DELETE, delete).await?.0 == 200);
    server.wait_gone("site/copy").await?;
    wait_for("its reader to be cut off", SOON, async || reader.ended().context("it reads on")).await?;
    let (status, body) = server.request(Method::DELETE, delete).await?;
    ensure!(status == 404, "{status} {body}");
    let (status, body) = server.request(Method::GET, "/v3/config/paths/get/site/copy").await?;
    ensure!(status == 404, "{status} {body}");
    let (status, body) = server.configure("add", "bad", &serde_json::json!({ "source": "nonsense" })).await?;
    ensure!(status == 400, "{status} {body}");
    Ok(())
}

pub async fn metrics_are_filtered_by_type(pair: Arc<Pair>) -> Result<()> {
    let _camera = pair.camera("cam1", Sample::H264).await?;
    let reader = PlainReader::start(&pair.distribution.url("cam1"));
    ensure!(reader.wait_for(5, SOON).await, "{:?}", reader.ended());
    let server = &pair.distribution;
    let all = server.metrics("").await?;
    let all = metric_names(&all);
    for (kind, captured) in
        [("paths", captured!("metrics.paths.txt")), ("rtsp_sessions", captured!("metrics.rtsp_sessions.txt"))]
    {
        let text = server.metrics(&format!("?type={kind}")).await?;
        let seen = metric_names(&text);
        let expected: BTreeSet<_> = metric_names(captured.split("(deprecated)").next().unwrap_or_default());
        ensure!(expected.is_subset(&seen), "{kind}: missing {:?}", expected.difference(&seen).collect::<Vec<_>>());
        ensure!(expected.is_subset(&all), "{kind} is not in the unfiltered answer");
        ensure!(seen.iter().all(|name| name.starts_with(kind)), "{kind}: {seen:?}");
    }
    let paths = server.metrics("?type=paths").await?;
    ensure!(paths.contains(r#"paths{name="cam1",state="ready"} 1"#), "{paths}");
    ensure!(paths.contains(r#"paths_readers{name="cam1",readerType="rtspSession",state="ready"} 1"#), "{paths}");
    let bytes = paths.lines().find(|line| line.starts_with("paths_outbound_bytes{")).context("outbound bytes")?;
    ensure!(bytes.rsplit(' ').next().is_some_and(|value| value.parse::<u64>().is_ok_and(|n| n > 0)), "{bytes}");
    Ok(())
}

pub async fn lists_of_protocols_that_are_off_are_not_there(pair: Arc<Pair>) -> Result<()> {
    for list in ["hlssessions", "webrtcsessions"] {
        let (status, body) = pair.distribution.request(Method::GET, &format!("/v3/{list}/list")).await?;
        ensure!(status == 404 && body.trim() == captured!("protocol_off.txt").trim(), "{list}: {status} {body}");
    }
    let (status, body) = pair.distribution.request(Method::GET, "/v3/paths/get/cam9").await?;
    ensure!(status == 404, "{status} {body}");
    same_shape(captured!("paths_get.unknown.json"), &serde_json::from_str(&body)?)
}

/// The names of metrics, without their tags.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

/// Checks that every field of a captured answer is in the one seen, with a value of the same kind.
fn same_shape(captured: &str, seen: &Value) -> Result<()> {
    compare(&serde_json::from_str(captured)?, seen, "answer").with_context(|| format!("seen: {seen}"))
}

fn compare(captured: &Value, seen: &Value, place: &str) -> Result<()> {
    match (captured, seen) {
        (Value::Object(captured), Value::Object(seen)) => {
            for (name, value) in captured.iter().filter(|(name, _)| !deprecated(name)) {
                let Some(own) = seen.get(name) else { bail!("{place} has no {name}") };
                compare(value, own, &format!("{place}.{name}"))?;
            }
            Ok(())
        }
        (Value::Array(captured), Value::Array(seen)) => match captured.first() {
            Some(item) => seen.iter().try_for_each(|own| compare(item, own, &format!("{place}[]"))),
            None => Ok(()),
        },
        (Value::Null, _) | (_, Value::Null) => Ok(()),
        _ => {
            let same = std::mem::discriminant(captured) == std::mem::discriminant(seen);
            ensure!(same, "{place} is {seen}, and was {captured}");
            Ok(())
        }
    }
}

/// Older names of figures, which the real server still gives and nobody here reads; and what a codec's parameter sets
/// say, which the stand-in does not look into.
fn deprecated(name: &str) -> bool {
    name.starts_with("rtp") || name.starts_with("rtcp") || name == "codecProps"
}

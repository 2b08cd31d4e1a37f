//! Streams served instead of redirected: what the relay itself does is tested where it is; here it is who gets to it.

use mtxfleet_ai_client::Credentials;

use super::*;

async fn relaying(max_streams: usize, change: impl FnOnce(&mut ResolverLimits)) -> Resolver {
    let credentials = Credentials { user: "fleet".to_owned(), password: "secret".to_owned() };
    let mut settings = ResolverSettings { relay: Some(RelaySettings { credentials, max_streams }), ..settings() };
    change(&mut settings.limits);
    Resolver::start(settings).await.unwrap()
}

/// An owner's server that takes connections, and answers nothing.
async fn mute() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    (listener, at)
}

#[tokio::test]
async fn a_question_about_an_owned_stream_is_answered_by_reading_it_as_a_pull_of_this_node() {
    let resolver = relaying(10, |_| {}).await;
    let (server, at) = mute().await;
    resolver.set_owners(vec![owner("site/cam1", "i1", &at)]);
    let mut client = connect(&resolver).await;
    client.write_all(describe("site/cam1").as_bytes()).await.unwrap();
    let (mut leg, _) = server.accept().await.unwrap();
    let asked = answer(&mut leg).await;
    assert!(asked.starts_with("DESCRIBE rtsp://") || asked.starts_with("OPTIONS rtsp://"), "{asked}");
    assert!(asked.contains("/site/cam1?pull=d1&leg="), "{asked}");
    assert_eq!(resolver.counters(), ResolverCounters { relayed: 1, ..Default::default() });
}

#[tokio::test]
async fn a_stream_without_an_owner_is_held_and_given_up_as_without_a_relay() {
    let resolver = relaying(10, |_| {}).await;
    assert!(ask(&mut connect(&resolver).await, &describe("cam1")).await.starts_with("RTSP/1.0 404 Not Found"));
    assert_eq!(resolver.counters(), ResolverCounters { unknown: 1, held: 1, ..Default::default() });
    // Nor is this node ever read from, whatever it is called.
    let itself = resolver.local_addr().to_string();
    resolver.set_owners(vec![
        owner("a", "d1", "10.0.0.1:1"),
        owner("b", "i1", "10.0.0.9:8554"),
        owner("c", "i2", &itself),
    ]);
    for stream in ["a", "b", "c"] {
        assert!(ask(&mut connect(&resolver).await, &describe(stream)).await.starts_with("RTSP/1.0 404"));
    }
    assert_eq!((resolver.counters().own, resolver.counters().relayed), (3, 0));
}

#[tokio::test]
async fn streams_beyond_the_limit_are_redirected() {
    let resolver = relaying(2, |_| {}).await;
    let (_server, at) = mute().await;
    resolver.set_owners(["a", "b", "c"].map(|stream| owner(stream, "i1", &at)).into());
    let mut relayed = Vec::new();
    for stream in ["a", "b"] {
        let mut client = connect(&resolver).await;
        client.write_all(describe(stream).as_bytes()).await.unwrap();
        relayed.push(client);
    }
    wait_for("two relayed", async || resolver.counters().relayed == 2).await;
    let found = ask(&mut connect(&resolver).await, &describe("c")).await;
    assert!(found.contains(&format!("\r\nLocation: rtsp://{at}/c?pull=d1\r\n")), "{found}");
    assert_eq!(resolver.counters().relay_full, 1);
    // They do not count as questions, of which there may be fewer.
    drop(relayed);
}

#[tokio::test]
async fn garbage_is_refused_before_and_after_a_stream_is_relayed() {
    let resolver = relaying(10, |_| {}).await;
    let (_server, at) = mute().await;
    resolver.set_owners(vec![owner("cam1", "i1", &at)]);
    let mut client = connect(&resolver).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(answer(&mut client).await.starts_with("RTSP/1.0 400"));
    assert_eq!(resolver.counters().refused_garbage, 1);
    let mut client = connect(&resolver).await;
    let mut bytes = describe("cam1").into_bytes();
    bytes.extend(std::iter::repeat_n(b'x', 100_000));
    // It may be closed before all is written.
    let _ = client.write_all(&bytes).await;
    while !is_closed(&mut client).await {}
}

#[tokio::test]
async fn dropping_the_resolver_ends_what_is_relayed() {
    let resolver = relaying(10, |_| {}).await;
    let (_server, at) = mute().await;
    resolver.set_owners(vec![owner("cam1", "i1", &at)]);
    let mut client = connect(&resolver).await;
    client.write_all(describe("cam1").as_bytes()).await.unwrap();
    wait_for("relayed", async || resolver.counters().relayed == 1).await;
    drop(resolver);
    while !is_closed(&mut client).await {}
}

//! The status page as a browser gets it.

use mtxfleet_wire::Phase;

use super::{LIMIT, api};

#[tokio::test]
async fn the_page_is_served_whole_and_lets_nothing_in_from_elsewhere() {
    let api = api().await;
    let (status, html) = api.get("/").await;
    assert_eq!(status, 200);
    let named = html.split(['"', '\'']).filter(|word| word.starts_with("page."));
    let named: Vec<&str> = named.collect();
    assert_eq!(named, ["page.css", "page.js"], "all that it needs is beside it");
    for path in named.into_iter().map(|file| format!("/{file}")).chain(["/".to_owned()]) {
        let response = api.client.get(api.url(&path)).timeout(LIMIT).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers().get("content-security-policy").expect("a policy").to_str().expect("text");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        let text = response.text().await.expect("a body");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another place");
    }
}

#[tokio::test]
async fn the_page_knows_every_phase_by_the_name_that_the_api_gives_it() {
    let (_, script) = api().await.get("/page.js").await;
    let phases: Vec<String> = Phase::ALL.iter().map(|phase| serde_json::to_string(phase).expect("a name")).collect();
    assert!(script.contains(&format!("[{}]", phases.join(", "))), "{phases:?}");
}

#[tokio::test]
async fn the_page_writes_what_other_machines_say_as_text_only() {
    let (_, script) = api().await.get("/page.js").await;
    for way_in in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.contains(way_in), "{way_in}");
    }
}

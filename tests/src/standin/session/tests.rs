use super::*;

fn request(method: Method, url: &str) -> Request<Vec<u8>> {
    let url = Url::parse(url).unwrap();
    Request::builder(method, Version::V1_0).request_uri(url).build(Vec::new())
}

#[test]
fn path_and_query_are_found_wherever_the_control_stands() {
    let both = Some(("site/cam1".to_owned(), "worker=w&leg=2".to_owned()));
    for url in [
        "rtsp://h:1/site/cam1?worker=w&leg=2",
        "rtsp://h:1/site/cam1?worker=w&leg=2/",
        "rtsp://h:1/site/cam1/?worker=w&leg=2",
        "rtsp://h:1/site/cam1/trackID=1?worker=w&leg=2",
        "rtsp://h:1/site/cam1?worker=w&leg=2/trackID=1",
    ] {
        assert_eq!(target(&request(Method::Setup, url)), both, "{url}");
    }
    assert_eq!(track_id("rtsp://h:1/site/cam1?worker=w/trackID=3"), Some(3));
    assert_eq!(track_id("rtsp://h:1/cam1/trackID=3?a=b"), Some(3));
    assert_eq!(track_id("rtsp://h:1/cam1/trackID=x"), None);
}

#[test]
fn odd_names_are_refused() {
    for url in ["rtsp://h:1/", "rtsp://h:1/a%00b", "rtsp://h:1/a%20b", &format!("rtsp://h:1/{}", "a".repeat(600))] {
        assert_eq!(target(&request(Method::Describe, url)), None, "{url}");
    }
}

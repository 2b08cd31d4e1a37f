use super::*;

const DISTRIBUTION: &str = r#"
rtspAddress: 127.0.0.1:8554
rtspTransports: [tcp]
hls: no
webrtc: false
api: yes
apiAddress: 127.0.0.1:9997
writeQueueSize: 1024
authInternalUsers:
- user: any
  pass:
  ips: []
  permissions:
  - action: read
- user: fleet
  pass: secret
  permissions:
  - action: api
  - action: publish
    path: ~^cam
paths:
  "~^(.+)$":
    source: rtsp://fleet:secret@127.0.0.1:8700/$G1?$MTX_QUERY
    sourceOnDemand: yes
    sourceOnDemandCloseAfter: 1m30s
  door:
"#;

fn fleet() -> Credentials {
    Credentials { user: "fleet".to_owned(), pass: "secret".to_owned() }
}

#[test]
fn source_of_an_expression_gets_group_and_query() {
    let config = Config::parse(DISTRIBUTION).unwrap();
    let (path, source) = config.path("site/cam1", "a=b").unwrap();
    assert_eq!(source.unwrap(), "rtsp://fleet:secret@127.0.0.1:8700/site/cam1?a=b");
    assert_eq!(path.close_after, Duration::from_secs(90));
    assert_eq!(config.path("door", "").unwrap().0.source, None, "a plain name goes before an expression");
}

#[test]
fn what_is_on_and_not_served_is_named() {
    let config = Config::parse(DISTRIBUTION).unwrap();
    assert_eq!(config.unserved(), ["rtmp", "srt", "moq"]);
    assert!(!config.hls && !config.webrtc);
    assert_eq!(config.metrics_address, None);
}

#[test]
fn permissions_bind_user_password_action_and_path() {
    let config = Config::parse(DISTRIBUTION).unwrap();
    let ip = IpAddr::from([127, 0, 0, 1]);
    let wrong = Credentials { pass: "Secret".to_owned(), ..fleet() };
    assert!(config.allows(Action::Read, "x", None, ip));
    assert!(!config.allows(Action::Api, "", None, ip));
    assert!(config.allows(Action::Api, "", Some(&fleet()), ip));
    assert!(!config.allows(Action::Api, "", Some(&wrong), ip));
    assert!(config.allows(Action::Publish, "cam1", Some(&fleet()), ip));
    assert!(!config.allows(Action::Publish, "door", Some(&fleet()), ip));
}

#[test]
fn without_users_the_api_is_for_this_machine_only() {
    let config = Config::parse("api: yes\npaths:\n  all_others:\n").unwrap();
    assert!(config.allows(Action::Api, "", None, IpAddr::from([127, 0, 0, 1])));
    assert!(!config.allows(Action::Api, "", None, IpAddr::from([10, 0, 0, 1])));
    assert!(config.allows(Action::Read, "x", None, IpAddr::from([10, 0, 0, 1])));
    assert!(config.path("any/thing", "").is_some());
}

#[test]
fn networks_and_hashed_passwords_are_understood() {
    assert!(contains("10.1.0.0/16", IpAddr::from([10, 1, 2, 3])));
    assert!(!contains("10.1.0.0/16", IpAddr::from([10, 2, 2, 3])));
    assert!(contains("0.0.0.0/0", IpAddr::from([10, 2, 2, 3])));
    assert!(!contains("nonsense/99", IpAddr::from([10, 2, 2, 3])));
    assert!(matches("sha256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", "abc"));
    assert_eq!(Credentials::from_header("Basic ZmxlZXQ6c2VjcmV0"), Some(fleet()));
    assert_eq!(Credentials::from_header("Basic !!"), None);
}

#[test]
fn what_the_stand_in_cannot_do_is_refused() {
    for bad in [
        "authMethod: http\n",
        "rtsp: no\n",
        "writeQueueSize: 0\n",
        "readTimeout: ten\n",
        "paths:\n  \"~^(.+)$\":\n    source: rtsp://a/$G1\n",
        "paths:\n  a:\n    source: srt://a\n",
        "paths: [\n",
    ] {
        assert!(Config::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn files_rendered_for_the_fleet_are_understood() {
    macro_rules! golden {
        ($file:literal) => {
            include_str!(concat!("../../../../mediamtx-config/tests/golden/", $file))
        };
    }
    for rendered in [golden!("ingestion.yml"), golden!("ingestion_full.yml"), golden!("distribution.yml")] {
        let config = Config::parse(rendered).unwrap();
        assert!(config.path("site/cam1", "").is_some());
        assert!(config.api_address.is_some() && config.metrics_address.is_some());
    }
    let external = Config::parse(golden!("distribution_full.yml")).unwrap_err().to_string();
    assert!(external.contains("authMethod http"), "{external}");
}

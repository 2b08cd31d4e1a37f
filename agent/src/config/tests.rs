use std::fmt::Write as _;
use std::time::Duration;

use mtxfleet_wire::{Bitrate, Role};

use super::*;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// What every file needs, on 7 lines.
fn least() -> String {
    format!(
        "[node]\nid = \"dist-1\"\nrole = \"distribution\"\nadvertise = \"10.0.0.7\"\n[cluster]\nname = \"prod\"\nkey = \"{KEY}\"\n"
    )
}

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse(text, "agent.toml").expect_err("this text has errors");
    errors.to_string().lines().map(str::to_owned).collect()
}

/// Errors of the least file with these lines after it, from line 8.
fn errors_with(lines: &str) -> Vec<String> {
    errors(&(least() + lines))
}

#[test]
fn the_least_file_has_every_default() {
    let config = Config::parse(&least(), "agent.toml").unwrap();
    assert_eq!(config.node.role, Role::Distribution);
    assert_eq!(config.drain, mtxfleet_drain::Settings::default());
    assert!(!config.exit_when_drained && config.webhooks.is_empty());
    assert_eq!(config.gossip.advertise, "10.0.0.7:7946");
    assert_eq!(config.gossip.interval, Duration::from_millis(200));
    assert_eq!(config.http.advertise.as_str(), "http://10.0.0.7:8780/");
    assert_eq!(config.mediamtx.advertised_rtsp(&config.node.advertise), "10.0.0.7:8554");
    assert_eq!(config.mediamtx.capacity, Bitrate(1_000_000_000));
    assert_eq!(config.mediamtx.min_disk_free, 1 << 30);
    assert_eq!(config.resolver.hold, Duration::from_secs(8));
    assert_eq!(config.cluster.keys().len(), 1);
    assert_eq!((config.cluster.minimum(Role::Ingestion), config.cluster.minimum(Role::Distribution)), (1, 2));
}

#[test]
fn every_error_is_told_at_once_with_its_line() {
    let text = "\
[node]
role = \"relay\"
adverties = \"10.0.0.7\"

[mediamtx]
capacity = \"1Gbps\"
user = \"fleet\"
sample_every = 1

[gossip]
listen = \"localhost:7946\"
seeds = [\"10.0.0.5:7946\", \"nonsense\", 7]
suspect_phi = \"8\"

[drain]
worker_deadline = \"5\"
batch = 2
viewer_window = \"5s\"

[[webhook]]
secret = \"whsec_c2hvcnQ=\"
events = [\"drain.over\"]
";
    let expected = [
        "agent.toml:1: node.advertise: is missing; write for example advertise = \"10.0.0.7\"",
        "agent.toml:2: node.role: \"relay\" is not known; write \"distribution\" or \"ingestion\"",
        "agent.toml:3: node.adverties: is no known key; did you mean \"advertise\"?",
        "agent.toml:6: mediamtx.capacity: \"Gbps\" is no unit here; use bit/s, kbit/s, Mbit/s, Gbit/s, for example \"800Mbit/s\"",
        "agent.toml:7: mediamtx.user: stands without password; write both or none",
        "agent.toml:8: mediamtx.sample_every: 1 is a number; write a text in quotes, for example \"1s\"",
        "agent.toml:11: gossip.listen: \"localhost:7946\" is no IP address with a port; write IP:PORT, or [IPV6]:PORT (a name cannot be listened on)",
        "agent.toml:12: gossip.seeds: seed \"nonsense\" is not valid: write host:port, such as 10.0.0.5:7946 or seeds.example:7946, or an SRV name, such as _gossip._udp.fleet.example",
        "agent.toml:12: gossip.seeds: holds a number; write texts in quotes",
        "agent.toml:13: gossip.suspect_phi: \"8\" does not do; write a number from 1 to 100, without quotes",
        "agent.toml:16: drain.worker_deadline: \"5\" has no unit; write for example \"5s\"",
        "agent.toml:17: drain.batch: 2 does not do; write a number from 0.01 to 1, without quotes",
        "agent.toml:18: drain.viewer_window: drain.viewer_cut is the last part of drain.viewer_window; it must not be longer",
        "agent.toml:20: webhook.url: is missing; write for example url = \"https://hooks.example/mtxfleet\"",
        "agent.toml:21: webhook.secret: must be whsec_ and base64 of 24 to 64 bytes; make it with: echo whsec_$(openssl rand -base64 32)",
        "agent.toml:22: webhook.events: \"drain.over\" is no event; choose from node.joined, node.state, node.suspected, node.health, node.replaced, drain.notice, drain.phase, drain.move, drain.cancelled, drain.ended, camera.taken, camera.handed_over, camera.unreachable, camera.reachable, inventory.taken, inventory.refused",
        "agent.toml: cluster.name: is missing; write for example name = \"prod\"",
        "agent.toml: cluster.key: is missing; write the 64 hexadecimal digits of openssl rand -hex 32, or key_file",
    ];
    let said = errors(text);
    for (said, expected) in said.iter().zip(expected) {
        assert_eq!(said, expected);
    }
    assert_eq!(said.len(), expected.len(), "{said:#?}");
}

#[test]
fn an_unknown_key_is_found_at_any_depth() {
    let said = errors_with("[balancer.haproxy]\nquite = \"1s\"\n[balancer.elb]\narn = 1\n[[webhooks]]\nurl = \"\"\n");
    assert_eq!(
        said,
        [
            "agent.toml:9: balancer.haproxy.quite: is no known key; did you mean \"quiet\"?",
            "agent.toml:10: balancer.elb: is no known key; take it away; docs/ref/config.md has every key",
            "agent.toml:12: webhooks: is no known key; did you mean \"webhook\"?",
        ]
    );
    assert_eq!(
        errors_with("[foo]\n"),
        ["agent.toml:8: foo: is no known key; take it away; docs/ref/config.md has every key"]
    );
    assert!(errors_with("[log]\n[node.x]\ny = 1\n")[0].contains("node.x"));
    assert!(Config::parse(&("top = 1\n".to_owned() + &least()), "agent.toml").is_err());
}

#[test]
fn errors_of_toml_itself_come_with_the_others() {
    let said = errors_with("[drain]\nbatch = \nnotice = \"3\"\n[drain]\n");
    assert!(said.iter().any(|line| line.starts_with("agent.toml:9: ") && line.contains("no valid TOML")), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("agent.toml:10: drain.notice")), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("agent.toml:11: ") && line.contains("duplicate")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("is missing")), "{said:#?}");
    for garbage in ["=", "[", "\"", "[[", "\u{0}", "a = {", "x = 1\nx = 2", "[node", "\u{feff}"] {
        assert!(Config::parse(garbage, "agent.toml").is_err(), "{garbage:?}");
    }
}

#[test]
fn values_out_of_range_name_the_range() {
    for (lines, said) in [
        ("[resolver]\nhold = \"10s\"", "resolver.hold: \"10s\" is out of range; give 0ms to 9500ms"),
        ("[resolver]\nlisten = \"0.0.0.0:8700\"", "resolver.listen: \"0.0.0.0:8700\" is not on loopback"),
        (
            "[resolver]\nmax_connections = -1",
            "resolver.max_connections: -1 does not do; write a whole number from 1 to 65536",
        ),
        ("[resolver]\nmax_connections = 0x1_0000_0000_0000_0000", "resolver.max_connections: "),
        ("[gossip]\nsuspect_phi = nan", "gossip.suspect_phi: nan does not do"),
        ("[gossip]\ndead_after = \"20s\"\ndead_node_grace = \"10s\"", "gossip.dead_node_grace: must be longer"),
        ("[mediamtx]\nadvertise_rtsp_port = 70000", "mediamtx.advertise_rtsp_port: 70000 does not do"),
        ("[http]\ntoken = \"short\"", "http.token: must be 16 to 512"),
        ("[registry]\nurl = \"rediss://h:6379\"", "registry.url: is no Redis address"),
        ("[log]\nlevel = \"loud\"", "log.level: \"loud\" is no level"),
        ("drain = 5", "cluster.drain: is no known key"),
    ] {
        let errors = errors_with(lines);
        assert!(errors.len() == 1 && errors[0].contains(said), "{lines}: {errors:#?}");
    }
    assert_eq!(
        errors(&("drain = 5\n".to_owned() + &least())),
        ["agent.toml:1: drain: is a number; write a table [drain]"]
    );
}

#[test]
fn secrets_come_from_files_too_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    std::fs::write(folder.path().join("bad"), "secret-but-no-key\n").unwrap();
    let file = folder.path().join("agent.toml").display().to_string();
    let with = |cluster: &str| {
        let text = least().replace(&format!("key = \"{KEY}\"\n"), cluster)
            + "[http]\ntoken = \"0123456789abcdef-token\"\n[registry]\nurl = \"redis://u:hidden@h:1\"\n";
        Config::parse(&text, &file)
    };
    let config = with(&format!("key_file = \"key\"\nnext_key = \"{}\"\n", "ab".repeat(32))).unwrap();
    assert_eq!(config.cluster.key, ClusterKey::from_hex(KEY).unwrap());
    assert_eq!(config.cluster.keys().len(), 2);
    let shown = format!("{config:?}");
    for secret in ["0001020304", "abababab", "abcdef-token", "hidden"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let said = |cluster: &str| with(cluster).unwrap_err().to_string();
    let bad = said("key_file = \"bad\"\n");
    assert!(bad.contains("its content must be 64 hexadecimal digits") && !bad.contains("secret-but"), "{bad}");
    assert!(said("key_file = \"absent\"\n").contains("cannot be read"));
    assert!(said(&format!("key_file = \"key\"\nkey = \"{KEY}\"\n")).contains("stands beside key"));
    assert!(Config::load(&folder.path().join("absent.toml")).unwrap_err().to_string().contains("cannot be read"));
}

/// What the documentation has to have, from reading a file in which every kind of section stands.
fn every_key() -> Vec<section::Asked> {
    let text = least()
        + "[[webhook]]\nurl = \"https://h/\"\nsecret = \"\"\n[[ingestion.schedule]]\n[[distribution.schedule]]\n";
    read(&text, "agent.toml").1
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ref").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_key_stands_in_the_reference_with_its_default_and_no_other_does() {
    let page = document("config.md");
    let mut documented = Vec::new();
    let mut section = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## `") {
            section = title.trim_end_matches('`').trim_matches(|c| c == '[' || c == ']').to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, key, default, ..] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
        {
            documented.push((section.clone(), key.to_owned(), default.to_owned()));
        }
    }
    let mut problems = String::new();
    for asked in every_key() {
        // Words stand as they are, and values in backticks as one writes them.
        let shown = match asked.default.as_str() {
            words if words == "none" || words == "required" || words.contains([' ', '`']) => words.to_owned(),
            plain if plain == "true" || plain == "false" => format!("`{plain}`"),
            list if list == "[]" || list.parse::<f64>().is_ok() => format!("`{list}`"),
            text => format!("`\"{text}\"`"),
        };
        let row = (asked.section, asked.key.to_owned(), shown);
        match documented.iter().position(|documented| *documented == row) {
            Some(index) => drop(documented.remove(index)),
            None => writeln!(problems, "missing: [{}] | `{}` | {} |", row.0, row.1, row.2).unwrap(),
        }
    }
    for (section, key, default) in documented {
        writeln!(problems, "not read by the agent, or with another default: [{section}] {key} {default}").unwrap();
    }
    assert!(problems.is_empty(), "docs/ref/config.md:\n{problems}");
}

#[test]
fn the_example_is_valid_and_shows_every_key() {
    let example = document("agent.toml");
    Config::parse(&example, "agent.toml").unwrap_or_else(|errors| panic!("{errors}"));
    // Keys that stand for one another cannot both be set: there, and only there, a comment shows the key.
    let uncommented: String =
        example.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
    let (document, syntax) = toml::de::DeTable::parse_recoverable(&uncommented);
    assert!(syntax.is_empty(), "{syntax:?}");
    for asked in every_key() {
        let mut tables = vec![document.get_ref()];
        for name in asked.section.split('.') {
            tables = tables
                .into_iter()
                .filter_map(|table| match table.get(name)?.get_ref() {
                    toml::de::DeValue::Table(table) => Some(table),
                    toml::de::DeValue::Array(items) => match items.iter().next()?.get_ref() {
                        toml::de::DeValue::Table(table) => Some(table),
                        _ => None,
                    },
                    _ => None,
                })
                .collect();
        }
        assert!(tables.iter().any(|table| table.contains_key(asked.key)), "[{}] {}", asked.section, asked.key);
    }
}

#[test]
fn a_file_cut_short_or_with_a_byte_changed_is_an_answer_and_never_a_panic() {
    let example = document("agent.toml");
    assert!(example.is_ascii(), "the cuts below fall on any byte");
    for cut in (0..example.len()).step_by(7) {
        _ = Config::parse(&example[..cut], "agent.toml");
        let changed = format!("{}\"{}", &example[..cut], &example[cut + 1..]);
        _ = Config::parse(&changed, "agent.toml");
    }
}

#[test]
fn a_webhook_may_choose_all_events_that_begin_alike() {
    let hook = |events| {
        let secret = format!("whsec_{}", "A".repeat(32));
        let text =
            least() + &format!("[[webhook]]\nurl = \"https://h/\"\nsecret = \"{secret}\"\nevents = [\"{events}\"]\n");
        Config::parse(&text, "agent.toml").is_ok()
    };
    assert!(hook("drain.*") && hook("drain.ended"));
    assert!(!hook("drains.*") && !hook("drain"));
}

#[test]
fn a_cloud_needs_what_its_driver_needs_and_nothing_else() {
    let redis = "[registry]\nurl = \"redis://h:1\"\n";
    let cloud = |lines: &str| {
        let text = format!("{}[cloud]\n{lines}\n{redis}", least());
        Config::parse(&text, "agent.toml").map(|config| config.cloud)
    };
    assert_eq!(cloud("").unwrap(), None);
    let local = cloud("driver = \"local\"\nurl = \"http://127.0.0.1:8770\"\n").unwrap().unwrap();
    assert_eq!(local.driver, CloudDriver::Local { url: "http://127.0.0.1:8770".parse().unwrap() });
    let exec = "driver = \"exec\"\nlist = [\"ls\", \"-x\"]\ngrow = [\"g\"]\nend = [\"e\"]\n";
    let CloudDriver::Exec { list, .. } = cloud(exec).unwrap().unwrap().driver else { panic!("another driver") };
    assert_eq!(list, ["ls", "-x"]);
    for (lines, said) in [
        ("url = \"http://h/\"", "agent.toml:9: cloud.url: does nothing without driver = \"local\""),
        ("driver = \"local\"", "cloud.url: is missing; write for example url = \"http://127.0.0.1:8770\""),
        ("driver = \"exec\"\nlist = [\"l\"]\nend = [\"e\"]", "cloud.grow: is missing"),
        ("driver = \"exec\"\nlist = [\"\"]\nend = [\"e\"]\ngrow = [\"g\"]", "cloud.list: holds an empty text"),
        ("driver = \"aws\"", "cloud.driver: \"aws\" is not known; write \"local\" or \"exec\""),
    ] {
        let errors = cloud(lines).unwrap_err().to_string();
        assert!(errors.contains(said), "{lines}: {errors}");
    }
}

#[test]
fn policies_come_with_every_error_and_say_what_to_write() {
    let redis = "[registry]\nurl = \"redis://h:1\"\n";
    for (lines, said) in [
        (
            "[distribution]\nmin = 5\nmax = 3\n",
            "agent.toml:9: distribution.min: 5 is above max, 3; lower it, or raise max",
        ),
        ("[distribution]\nmax = 1\n", "agent.toml:9: distribution.max: 2 is above max, 1; lower it, or raise max"),
        (
            "[distribution]\nmin = 1\n",
            "distribution.min: 1 is below cluster.min_distribution, 2, under which no drain is admitted; raise it",
        ),
        (
            "[distribution]\nreaders_per_node = 0\n",
            "distribution.readers_per_node: 0 does not do; write a number from 1",
        ),
        ("[distribution]\ncameras_per_node = 5\n", "distribution.cameras_per_node: is no known key"),
        ("[ingestion]\nup_window = 5\n", "ingestion.up_window: 5 is a number; write a text in quotes"),
        ("[orchestrator]\nenabled = \"yes\"\n", "orchestrator.enabled: is a text; write true or false, without quotes"),
        (
            "[orchestrator]\nenabled = true\n",
            "orchestrator.enabled: an orchestrator is elected through Redis; set registry.url",
        ),
        (
            "[[ingestion.schedule]]\nname = \"a\"\ncron = \"often\"\nlasts = \"1h\"\nmin = 2\n",
            "ingestion.schedule: \"a\": cron: ",
        ),
    ] {
        let errors = errors_with(lines);
        assert!(errors.len() == 1 && errors[0].contains(said), "{lines}: {errors:#?}");
    }
    let text = least()
        + redis
        + "[orchestrator]\nenabled = true\ndry_run = true\n[distribution]\ngrow_step = 2\ncpu_limit = 0\n\
           outbound_per_node = \"1Gbit/s\"\n[[distribution.schedule]]\nname = \"s\"\ncron = \"0 14 * * 6\"\n\
           lasts = \"6h\"\nmin = 4\n";
    let config = Config::parse(&text, "agent.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let policy = config.policies.distribution;
    assert!(policy.dry_run && config.policies.ingestion.dry_run);
    assert_eq!((policy.grow_step, policy.cpu_limit, policy.metrics[1].per_node), (Some(2), None, 1e9));
    assert_eq!((policy.schedules[0].min, policy.schedules[0].time_zone.as_str()), (Some(4), "UTC"));
    let least = Config::parse(&least(), "agent.toml").unwrap();
    assert!(!least.orchestrator.enabled && least.orchestrator().is_none());
    assert_eq!(least.policies.distribution, mtxfleet_leader::distribution_orchestrator::policy());
    assert_eq!(least.policies.ingestion, mtxfleet_leader::ingestion_orchestrator::policy());
}

use std::fmt::Write as _;

use super::*;

const KEY: ClusterKey = ClusterKey::new([7; 32]);

fn parse(text: &str) -> Result<Inventory, ConfigErrors> {
    Inventory::parse(text, "cameras.toml", &KEY)
}

fn errors(text: &str) -> String {
    let errors = parse(text).map_or_else(|errors| errors, |inventory| inventory.problems);
    assert!(!errors.is_empty(), "all is good");
    errors.to_string()
}

fn camera(more: &str) -> String {
    format!("[[camera]]\nname = \"cam1\"\nurl = \"rtsp://10.0.0.1:554/s\"\n{more}")
}

#[test]
fn every_error_is_told_at_once_with_its_line_and_no_password() {
    let text = "[[camera]]\nname = \"cam1\"\nurl = \"rtsp://root:hunter2@10.0.0.1/s\"\n\
                [[camera]]\nname = \"cam1\"\nurl = \"http://hunter2/\"\nuser = \"u\"\n\
                [[camera]]\nname = \"all_others\"\nurl = \"rtsp://10.0.0.1/s\"\nurll = \"x\"\n\
                [[camera]]\nname = \"cam4\"\n\
                [[camera]]\nname = \"a//b\"\nurl = \"rtsp://10.0.0.1/s\"\npassword = \"hunter2\"\ntransport = \"quic\"\n";
    let said = errors(text);
    for expected in [
        "cameras.toml:3: camera.url: holds credentials",
        "cameras.toml:6: camera.url: is no camera's address",
        "cameras.toml:7: camera.user: stands without password",
        "cameras.toml:9: camera.name: \"all_others\" cannot be a path",
        "cameras.toml:11: camera.urll: is no known key; did you mean \"url\"?",
        "cameras.toml:12: camera.url: is missing",
        "cameras.toml:15: camera.name: \"a//b\" cannot be a path",
        "cameras.toml:17: camera.password: stands without user",
        "cameras.toml:18: camera.transport: \"quic\" is not known",
    ] {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_wrong_entry_is_left_out_and_the_others_are_taken() {
    let entry = |name: &str, more: &str| format!("[[camera]]\nname = \"{name}\"\nurl = \"rtsp://10.0.0.1/s\"\n{more}");
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<StreamName>>();
    let taken = |inventory: &Inventory| inventory.cameras.keys().cloned().collect::<BTreeSet<_>>();
    let good = entry("a", "") + &entry("b", "");

    let urls = parse(&(good.clone() + "[[camera]]\nname = \"c\"\nurl = \"http://x/\"\n")).unwrap();
    assert_eq!((taken(&urls), &urls.wrong, urls.has_nameless), (names(&["a", "b"]), &names(&["c"]), false));
    let keys = parse(&(entry("c", "colour = \"red\"\n") + &good)).unwrap();
    assert_eq!((taken(&keys), &keys.wrong), (names(&["a", "b"]), &names(&["c"])), "a key that is not known");
    assert_eq!(urls.hash, keys.hash, "what is left out goes by its name only");
    let mixed = urls.names().collect::<BTreeSet<_>>();
    assert_eq!(mixed.len(), 3, "and by its name it is placed");
    assert_ne!(urls.hash, parse(&good).unwrap().hash);

    let nameless = parse(&(good.clone() + "[[camera]]\nurl = \"rtsp://10.0.0.1/s\"\n")).unwrap();
    assert_eq!((taken(&nameless), nameless.has_nameless), (names(&["a", "b"]), true));
    assert!(nameless.is_unread(&"c".parse().unwrap()) && !nameless.is_unread(&"a".parse().unwrap()));
    assert_eq!(nameless.problems.to_string().lines().count(), 1, "{}", nameless.problems);
}

#[test]
fn of_a_name_that_stands_twice_no_entry_is_taken_whichever_is_first_or_wrong() {
    let said = errors(&(camera("") + &camera("")));
    let twice = "stands twice, and no entry of this name is taken; give every camera one of its own";
    assert_eq!(said, format!("cameras.toml:5: camera.name: {twice}"));
    let (good, bad) = (camera(""), camera("transport = \"quic\"\n"));
    for text in [good.clone() + &bad, bad + &good, good.repeat(3)] {
        let inventory = parse(&text).unwrap();
        assert!(inventory.cameras.is_empty() && inventory.wrong.len() == 1, "{inventory:?}");
    }
}

#[test]
fn a_text_that_is_no_list_of_cameras_is_refused_as_a_whole() {
    for text in ["[[camra]]\nname = \"a\"\n", "camera = 3\n", "[camera]\nname = \"a\"\n", "camera = [3]\n"] {
        let text = camera("").replace("[[camera]]", "[[other]]") + text;
        assert!(parse(&text).is_err(), "{text}");
    }
    assert!(parse(&(camera("") + "[[camera\n")).is_err(), "cut short");
}

#[test]
fn a_password_is_in_the_source_and_nowhere_else() {
    let text = camera("user = \"viewer\"\npassword = \"p@ss/word\"\n");
    let inventory = parse(&text).unwrap();
    let camera = inventory.cameras.values().next().unwrap();
    assert_eq!(camera.source(), "rtsp://viewer:p%40ss%2Fword@10.0.0.1:554/s");
    assert!(!format!("{inventory:?}").contains("p@ss") && !format!("{inventory:?}").contains("p%40"));
    assert!(camera.secrets().contains(&"p%40ss%2Fword".to_owned()));
}

#[test]
fn the_hash_tells_inventories_apart_the_password_too_and_needs_the_key() {
    let with = |password: &str| camera(&format!("user = \"u\"\npassword = \"{password}\"\n"));
    let hash = |text: &str| parse(text).unwrap().hash;
    assert_eq!(hash(&with("a")), hash(&("# remark\n".to_owned() + &with("a"))));
    assert_ne!(hash(&with("a")), hash(&with("b")));
    assert_ne!(hash(&camera("")), hash(&camera("single_connection = true\n")));
    let other = Inventory::parse(&with("a"), "cameras.toml", &ClusterKey::new([8; 32])).unwrap();
    assert_ne!(hash(&with("a")), other.hash);
}

#[test]
fn what_is_not_set_is_left_to_path_defaults() {
    let bare = parse(&camera("")).unwrap().cameras.values().next().unwrap().path_settings("m");
    assert!(bare.get("record").is_none() && bare.get("useAbsoluteTimestamp").is_none(), "{bare}");
    assert_eq!((&bare["sourceOnDemand"], &bare["rtspTransport"]), (&false.into(), &"tcp".into()));
    let set = parse(&camera("record = false\nabsolute_timestamp = true\n")).unwrap();
    let set = set.cameras.values().next().unwrap().path_settings("m");
    assert_eq!((&set["record"], &set["useAbsoluteTimestamp"]), (&false.into(), &true.into()));
}

#[test]
fn the_hash_in_redis_has_the_same_keys_and_errors() {
    let fields = |pairs: &[(&str, &str)]| {
        Inventory::of_fields(&pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(), &KEY)
    };
    let url = r#"{"url": "rtsp://10.0.0.1:554/s"}"#;
    let (here, there) = (fields(&[("cam1", url)]).unwrap(), parse(&camera("")).unwrap());
    assert_eq!((here.cameras, here.hash), (there.cameras, there.hash));
    let mixed = fields(&[("cam1", url), ("cam2", "{"), ("cam3", r#"{"url": 3, "x": 1}"#), ("a//b", url)]).unwrap();
    assert_eq!((mixed.cameras.len(), mixed.wrong.len(), mixed.has_nameless), (1, 2, true));
    let said = mixed.problems.to_string();
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(
        said.contains("camera \"cam2\": is no JSON object") && said.contains("camera \"cam3\": url: 3 is a number")
    );
    assert!(fields(&[]).is_err(), "an emptied Redis is no empty inventory");
}

#[test]
fn an_inventory_cut_short_or_with_a_byte_changed_is_an_answer_and_never_a_panic() {
    let example = document("cameras.toml");
    for cut in (0..example.len()).step_by(5) {
        _ = parse(&example[..cut]);
        _ = parse(&format!("{}\"{}", &example[..cut], &example[cut + 1..]));
    }
}

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ref").join(name)).unwrap()
}

#[test]
fn the_example_is_valid_and_the_reference_has_every_key() {
    let example = document("cameras.toml");
    let inventory = parse(&example).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(inventory.problems.is_empty(), "{}", inventory.problems);
    let page = document("cameras.md");
    let mut missing = String::new();
    for asked in Inventory::read(&camera(""), "cameras.toml", &KEY).1 {
        let shown = match asked.default.as_str() {
            words if words == "none" || words == "required" || words.contains([' ', '`']) => words.to_owned(),
            "false" => "`false`".to_owned(),
            text => format!("`\"{text}\"`"),
        };
        if !page.contains(&format!("| `{}` | {shown} |", asked.key)) {
            writeln!(missing, "| `{}` | {shown} |", asked.key).unwrap();
        }
        assert!(example.contains(&format!("{} =", asked.key)), "{} in cameras.toml", asked.key);
    }
    assert!(missing.is_empty(), "docs/ref/cameras.md lacks:\n{missing}");
}

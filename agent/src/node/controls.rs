//! What operators decide over the orchestrators' heads: a role is paused, a node is kept.
//!
//! A pause is a register with a version, which every agent keeps on disk and passes on by gossip; the newest wins. So it
//! holds whoever leads, needs no Redis, and survives a fleet that is stopped and started.

use std::collections::BTreeMap;

use mtxfleet_wire::{Control, ControlOrder, Role};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::{Node, Now};

/// A reason is kept in gossip and on disk; what is longer is cut.
const WHY_BYTES: usize = 500;

#[derive(Debug, Default)]
pub struct Controls {
    registers: BTreeMap<Role, Control>,
    /// This node is not to be drained by a plan.
    protected: bool,
    changed: bool,
}

/// What is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedControls {
    pub controls: Vec<Control>,
    pub protected: bool,
}

impl Controls {
    #[must_use]
    pub fn new(saved: SavedControls) -> Self {
        let mut controls = Self { protected: saved.protected, ..Self::default() };
        saved.controls.iter().for_each(|control| controls.hear(control));
        controls
    }

    /// The order that pauses this role now.
    #[must_use]
    pub fn paused(&self, role: Role) -> Option<&Control> {
        self.registers.get(&role).filter(|control| control.paused)
    }

    /// The newest order for this role.
    #[must_use]
    pub fn of(&self, role: Role) -> Option<&Control> {
        self.registers.get(&role)
    }

    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.protected
    }

    fn hear(&mut self, control: &Control) {
        if self.registers.get(&control.role).is_none_or(|known| control.beats(known)) {
            self.registers.insert(control.role, control.clone());
            self.changed = true;
        }
    }

    fn saved(&self) -> SavedControls {
        SavedControls { controls: self.registers.values().cloned().collect(), protected: self.protected }
    }
}

impl Node {
    /// Somebody pauses or resumes a role through this agent.
    pub(super) fn control_ordered(&mut self, now: Now, order: ControlOrder, paused: bool) {
        let version = self.controls.of(order.role).map_or(0, |known| known.version).saturating_add(1);
        let mut why = order.why;
        why.truncate(why.floor_char_boundary(WHY_BYTES));
        let by = self.settings.id.clone();
        self.controls.hear(&Control { role: order.role, paused, version, by, why, at: now.wall });
    }

    pub(super) fn protect_ordered(&mut self, protected: bool) {
        self.controls.changed |= self.controls.protected != protected;
        self.controls.protected = protected;
        // Said at once, since a plan may be about to name it.
        self.said.forget_load();
    }

    pub(super) fn hear_controls(&mut self) {
        for control in self.fleet.members().flat_map(|member| member.peer.controls.iter()) {
            self.controls.hear(control);
        }
    }

    /// On disk first, then to the others.
    pub(super) fn publish_controls(&mut self, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.controls.changed) {
            let saved = self.controls.saved();
            effects.push(Effect::PersistControls(saved.clone()));
            effects.push(Effect::PublishControls(saved.controls));
        }
    }

    /// The newest order for this role.
    #[must_use]
    pub fn control(&self, role: Role) -> Option<&Control> {
        self.controls.of(role)
    }
}

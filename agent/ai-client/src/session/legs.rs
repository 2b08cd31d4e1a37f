//! Legs as they are opened, read, lost and closed.

use std::sync::Arc;

use mtxfleet_wire::LegId;

use super::Session;
use crate::Error;
use crate::assembly::Assembly;
use crate::frame::Track;
use crate::handover::{Input, Target};
use crate::leg::{Leg, LegError, LegItem};
use crate::running::Running;

impl Session {
    pub(super) fn open(&mut self, leg: LegId, target: Target) {
        tracing::debug!(%leg, %target, "opening a leg");
        if let (Some(assembly), Some(_)) = (&mut self.assembly, self.handover.current()) {
            assembly.begin_measuring_pause();
        }
        let wanted = match &self.assembly {
            Some(assembly) if self.ready.is_none() => assembly.tracks().to_vec(),
            _ => Vec::new(),
        };
        let (settings, id, to) = (self.settings.clone(), leg.clone(), target.clone());
        let opener = self.opening.spawn(async move {
            let result = Leg::open(&settings, &to, &id, &wanted).await;
            (id, result)
        });
        self.openers.insert(leg, (target, opener));
    }

    pub(super) fn close(&mut self, id: &LegId) {
        if let Some((_, opener)) = self.openers.remove(id) {
            opener.abort();
        }
        if let Some(index) = self.legs.iter().position(|running| running.id == *id) {
            let leg = self.remove(index);
            self.closing.spawn(leg.close());
        }
        while self.closing.try_join_next().is_some() {}
    }

    fn remove(&mut self, index: usize) -> Leg {
        let now = self.now();
        let Running { key, leg, .. } = self.legs.remove(index);
        if let Some(assembly) = &mut self.assembly {
            assembly.close_leg(now, key);
        }
        leg
    }

    pub(super) fn opened(&mut self, id: LegId, result: Result<(Leg, Vec<Track>), LegError>) {
        let Some((target, _)) = self.openers.remove(&id) else { return };
        let (leg, tracks) = match result {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(leg = %id, %target, %error, "a leg could not be opened");
                if let (LegError::OtherTracks(what), None) = (&error, self.handover.current()) {
                    self.fatal = Some(Error::TracksChanged(what.clone()));
                }
                return self.apply(Input::Refused(&id, error.to_string()));
            }
        };
        let now = self.now();
        if self.ready.is_some() {
            // No leg has delivered yet, so this one's tracks are the stream's.
            self.assembly = None;
        }
        let rtp_packets = self.settings.rtp_packets;
        let recordings = self.settings.recordings;
        let ledger = self.resuming.as_ref().map(|resuming| Arc::clone(&resuming.ledger));
        let tail = self.resuming.as_ref().map(|resuming| resuming.tail.clone()).unwrap_or_default();
        let assembly = self.assembly.get_or_insert_with(|| {
            let mut new = Assembly::new(self.started, tracks.clone(), rtp_packets, recordings, ledger);
            if !tail.is_empty() {
                new.resume(tail);
            }
            new
        });
        let key = assembly.open_leg(now, &tracks);
        self.legs.push(Running { id: id.clone(), key, leg, heard: now, flowing: false });
        self.apply(Input::Opened(&id));
    }

    pub(super) fn packet(&mut self, index: usize, item: Option<Result<LegItem, LegError>>) {
        let now = self.now();
        let Some(running) = self.legs.get_mut(index) else { return };
        let item = match item {
            Some(Ok(item)) => item,
            Some(Err(error)) => return self.lost(index, error.to_string()),
            None => return self.lost(index, "the server ended it".to_owned()),
        };
        // A sender report is a sign of life too: the server sends them whether the camera does anything or not.
        running.heard = now;
        let is_media = matches!(item, LegItem::Rtp { .. });
        if let Some(assembly) = &mut self.assembly {
            assembly.push(now, running.key, item);
        }
        if is_media && !std::mem::replace(&mut running.flowing, true) {
            let id = running.id.clone();
            self.apply(Input::Packets(&id));
            if let (Some(ready), Some(assembly)) = (self.ready.take(), &self.assembly) {
                let _ = ready.send(Ok(assembly.tracks().to_vec()));
            }
        }
    }

    fn lost(&mut self, index: usize, why: String) {
        let id = self.legs[index].id.clone();
        tracing::info!(leg = %id, why, "a leg has ended");
        if let (Some(assembly), true) = (&mut self.assembly, self.handover.current() == Some(&id)) {
            assembly.begin_measuring_pause();
        }
        drop(self.remove(index));
        self.apply(Input::Ended(&id, why));
        if let (None, Some(assembly)) = (self.handover.current(), &mut self.assembly) {
            assembly.lost_legs();
        }
    }

    pub(super) fn tick(&mut self) {
        let now = self.now();
        let since = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        let is_read = self.has_room();
        if !is_read {
            // Nothing can be said about silence.
            self.legs.iter_mut().for_each(|running| running.heard = now);
        }
        if let Some(assembly) = &mut self.assembly {
            if !is_read {
                assembly.not_read_for(since);
            }
            assembly.tick(now);
        }
        let limit = self.settings.silence_timeout;
        while let Some(index) = self.legs.iter().position(|leg| leg.flowing && now.saturating_sub(leg.heard) >= limit) {
            self.lost(index, format!("nothing came for {limit:?}"));
        }
        self.apply(Input::Tick);
    }
}

//! Streams served to MediaMTX here, instead of an address to pull them from: each is read from its owner, and followed.

use std::net::SocketAddr;

use mtxfleet_ai_client::Owner;
use mtxfleet_relay::{Source, SourceConfig};
use mtxfleet_wire::{NodeId, StreamName};
use tokio::sync::watch;

use super::owners::{Found, Owners};
use super::{RelaySettings, ResolverSettings};

/// `known` are the owners as the resolver knows them; this node itself is never read from.
pub(super) fn source(
    relay: RelaySettings,
    settings: &ResolverSettings,
    known: watch::Receiver<Owners>,
    resolver: SocketAddr,
) -> Source {
    let node = settings.node.clone();
    let own = Own { node: node.clone(), rtsp: settings.own_rtsp.clone(), resolver };
    let find = move |stream: &StreamName| {
        let mut known = known.clone();
        let first = own.find(&mut known, stream)?;
        let (tell, owner) = watch::channel(Some(first));
        let (own, stream) = (own.clone(), stream.clone());
        tokio::spawn(follow(tell, known, own, stream));
        Some(owner)
    };
    let config = SourceConfig { node, credentials: Some(relay.credentials), max_streams: relay.max_streams };
    Source::new(config, Box::new(find))
}

/// Whom a stream must not be read from.
#[derive(Debug, Clone)]
struct Own {
    node: NodeId,
    rtsp: String,
    resolver: SocketAddr,
}

impl Own {
    fn find(&self, known: &mut watch::Receiver<Owners>, stream: &StreamName) -> Option<Owner> {
        match known.borrow_and_update().find(stream, &self.node, &self.rtsp, self.resolver) {
            Found::At(owner) => Some(owner),
            Found::Own | Found::Nowhere => None,
        }
    }
}

/// Until the stream is closed, or the resolver is.
async fn follow(tell: watch::Sender<Option<Owner>>, mut known: watch::Receiver<Owners>, own: Own, stream: StreamName) {
    loop {
        tokio::select! {
            changed = known.changed() => if changed.is_err() {
                return;
            },
            () = tell.closed() => return,
        }
        let now = own.find(&mut known, &stream);
        tell.send_if_modified(|owner| {
            let changed = *owner != now;
            *owner = now;
            changed
        });
    }
}

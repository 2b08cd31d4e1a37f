//! `/metrics` of the edges that only count: gossip, resolver, agent-check.

use std::sync::Arc;

use super::gossip::{Gossip, GossipCounters};
use super::http::Metrics;
use super::http::metrics::{Collector, Metric, Sample};
use super::load_balancer::AgentCheck;
use super::resolver::Resolver;

macro_rules! counters {
    ($($name:ident = $text:literal, $help:literal;)*) => {
        $(static $name: Metric = Metric::counter($text, $help);)*
    };
}

counters! {
    DATAGRAMS = "mtxfleet_gossip_datagrams_total", "Gossip datagrams, by direction.";
    BYTES = "mtxfleet_gossip_bytes_total", "Gossip bytes, by direction.";
    REFUSED = "mtxfleet_gossip_refused_datagrams_total", "Datagrams refused before parsing, by reason.";
    PROBES = "mtxfleet_gossip_probes_total", "Questions and answers about nodes that were not heard for two rounds.";
    DOUBTS = "mtxfleet_gossip_doubts_total", "Times that all others were asked about a node that did not answer.";
    OLD_KEY = "mtxfleet_gossip_opened_with_old_key_total", "Datagrams that only the second cluster key opened.";
    FAILURES = "mtxfleet_gossip_failures_total", "Failures of gossip, by kind.";
    REDIRECTS = "mtxfleet_resolver_redirects_total", "Questions of MediaMTX answered with an owner.";
    UNKNOWN = "mtxfleet_resolver_unknown_total", "Questions given up, since no owner became known in time.";
    RESOLVER_REFUSED = "mtxfleet_resolver_refused_total", "Connections and questions refused, by reason.";
    RELAYED = "mtxfleet_relay_opened_total", "Questions of MediaMTX answered with the stream itself.";
    RELAY_FULL = "mtxfleet_relay_overflow_total", "Streams redirected, since as many as are allowed were relayed.";
    RELAY_NOT_OPENED = "mtxfleet_relay_not_opened_total", "Streams that could not be read from their owner.";
    RELAY_PACKETS = "mtxfleet_relay_packets_total", "RTP packets given to MediaMTX.";
    RELAY_DISCARDED = "mtxfleet_relay_discarded_packets_total", "RTP packets not given: MediaMTX took them too slowly.";
    RELAY_HANDOVERS = "mtxfleet_relay_handovers_total", "Changes of a stream's owner joined, by whether it was lossless.";
    RELAY_LOST = "mtxfleet_relay_lost_packets_total", "RTP packets that no owner gave.";
    POLLS = "mtxfleet_agent_check_polls_total", "Agent checks of load balancers, by outcome.";
}

static NOT_GOSSIPED: Metric =
    Metric::gauge("mtxfleet_gossip_streams_not_gossiped", "Streams of this node that its report has no room for.");
static HOLDING: Metric = Metric::gauge("mtxfleet_resolver_held_questions", "Questions that wait for an owner now.");

static RELAY_STREAMS: Metric = Metric::gauge("mtxfleet_relay_streams", "Streams relayed to this node's MediaMTX now.");

/// From now on `/metrics` shows what these edges count.
pub fn register(metrics: &Metrics, gossip: &Gossip, resolver: Option<&Arc<Resolver>>, check: &Arc<AgentCheck>) {
    metrics.register_collector(of_gossip(gossip.counters()));
    if let Some(resolver) = resolver {
        metrics.register_collector(of_resolver(Arc::clone(resolver)));
    }
    metrics.register_collector(of_agent_check(Arc::clone(check)));
}

fn of_gossip(counters: Arc<GossipCounters>) -> Collector {
    Box::new(move || {
        let seen = counters.snapshot();
        let mut samples = vec![
            DATAGRAMS.labelled(&[("direction", "in")], seen.datagrams_in as f64),
            DATAGRAMS.labelled(&[("direction", "out")], seen.datagrams_out as f64),
            BYTES.labelled(&[("direction", "in")], seen.bytes_in as f64),
            BYTES.labelled(&[("direction", "out")], seen.bytes_out as f64),
            PROBES.sample(seen.probes as f64),
            DOUBTS.sample(seen.doubts as f64),
            OLD_KEY.sample(seen.opened_with_old_key as f64),
            FAILURES.labelled(&[("kind", "send")], seen.send_failures as f64),
            FAILURES.labelled(&[("kind", "receive")], seen.receive_failures as f64),
            FAILURES.labelled(&[("kind", "unreadable_value")], seen.unreadable_values as f64),
            FAILURES.labelled(&[("kind", "oversize_value")], seen.oversize_values as f64),
            FAILURES.labelled(&[("kind", "seed_lookup")], seen.seed_lookup_failures as f64),
            NOT_GOSSIPED.sample(seen.streams_not_gossiped as f64),
        ];
        let refused = |(reason, count): &(super::gossip::Refusal, u64)| -> Sample {
            REFUSED.labelled(&[("reason", reason.as_str())], *count as f64)
        };
        samples.extend(seen.refused.iter().map(refused));
        samples
    })
}

fn of_resolver(resolver: Arc<Resolver>) -> Collector {
    Box::new(move || {
        let seen = resolver.counters();
        let refused = |reason: &str, count: u64| RESOLVER_REFUSED.labelled(&[("reason", reason)], count as f64);
        let mut samples = vec![
            REDIRECTS.sample(seen.redirects as f64),
            UNKNOWN.sample(seen.unknown as f64),
            HOLDING.sample(seen.holding as f64),
            refused("own_address", seen.own),
            refused("connections", seen.refused_connections),
            refused("held_questions", seen.refused_held),
            refused("garbage", seen.refused_garbage),
            refused("oversize", seen.refused_oversize),
            refused("slow", seen.refused_slow),
        ];
        if let Some(totals) = resolver.relayed() {
            let proven = totals.handovers.saturating_sub(totals.unproven_handovers);
            let handovers = |proven: &str, count: u64| RELAY_HANDOVERS.labelled(&[("proven", proven)], count as f64);
            samples.extend([
                RELAY_STREAMS.sample(totals.streams as f64),
                RELAYED.sample(seen.relayed as f64),
                RELAY_FULL.sample(seen.relay_full as f64),
                RELAY_NOT_OPENED.sample(totals.not_opened as f64),
                RELAY_PACKETS.sample(totals.packets as f64),
                RELAY_DISCARDED.sample(totals.discarded_packets as f64),
                handovers("true", proven),
                handovers("false", totals.unproven_handovers),
                RELAY_LOST.sample(totals.lost_packets as f64),
            ]);
        }
        samples
    })
}

fn of_agent_check(check: Arc<AgentCheck>) -> Collector {
    Box::new(move || {
        let seen = check.counters();
        let polls = |outcome: &str, count: u64| POLLS.labelled(&[("outcome", outcome)], count as f64);
        vec![polls("answered", seen.answered), polls("refused", seen.refused), polls("broken", seen.broken)]
    })
}

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
    POLLS = "mtxfleet_agent_check_polls_total", "Agent checks of load balancers, by outcome.";
}

static NOT_GOSSIPED: Metric =
    Metric::gauge("mtxfleet_gossip_streams_not_gossiped", "Streams of this node that its report has no room for.");
static HOLDING: Metric = Metric::gauge("mtxfleet_resolver_held_questions", "Questions that wait for an owner now.");

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
        vec![
            REDIRECTS.sample(seen.redirects as f64),
            UNKNOWN.sample(seen.unknown as f64),
            HOLDING.sample(seen.holding as f64),
            refused("own_address", seen.own),
            refused("connections", seen.refused_connections),
            refused("held_questions", seen.refused_held),
            refused("garbage", seen.refused_garbage),
            refused("oversize", seen.refused_oversize),
            refused("slow", seen.refused_slow),
        ]
    })
}

fn of_agent_check(check: Arc<AgentCheck>) -> Collector {
    Box::new(move || {
        let seen = check.counters();
        let polls = |outcome: &str, count: u64| POLLS.labelled(&[("outcome", outcome)], count as f64);
        vec![polls("answered", seen.answered), polls("refused", seen.refused), polls("broken", seen.broken)]
    })
}

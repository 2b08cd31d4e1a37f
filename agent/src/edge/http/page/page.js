// The status page: asks its own agent once a second, and draws what that agent knows by gossip.
// All text goes in through textContent, since names and reasons come from other machines.
"use strict";

const EVERY_MS = 1000;
const PHASES = ["pre_notification", "load_balancer", "worker_migration", "viewer_draining", "cleanup"];
const LONG_AGO_MS = 5000;

const at = (id) => document.getElementById(id);

/** An element with a class, and text or children. */
function make(tag, className, ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside.filter((part) => part !== null && part !== undefined));
  return element;
}

const words = (name) => String(name).replaceAll("_", " ");

function bits(bps) {
  if (bps === null || bps === undefined) return "?";
  for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]]) {
    if (bps >= size) return `${(bps / size).toFixed(bps < 10 * size ? 1 : 0)} ${unit}`;
  }
  return `${bps} bit/s`;
}

function bytes(count) {
  if (count === null || count === undefined) return "?";
  return count >= 1e12 ? `${(count / 1e12).toFixed(1)} TB` : `${(count / 1e9).toFixed(1)} GB`;
}

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

const known = (figure) => (figure === null || figure === undefined ? "?" : String(figure));

/** A part of a whole, such as 0.5. */
function percent(share) {
  return share === null || share === undefined ? "?" : `${Math.round(share * 100)} %`;
}

const several = (count, what) => (count === 1 ? `1 ${what}` : `${count} ${what}s`);

/** What a node is, in one word, and how good that is. Those that need somebody come first in tables. */
const ORDER = ["dead", "suspect", "ill", "draining", "starting", "serving", "offline"];
function condition(member) {
  const load = member.load;
  if (member.liveness === "dead") return ["dead", "bad"];
  if (member.liveness === "suspect") return ["suspect", "warn"];
  if (!load) return ["starting", "warn"];
  if (load.state === "draining") return ["draining", "warn"];
  if (load.state === "offline") return ["offline", "faint"];
  if (load.server.is === "unknown") return ["starting", "warn"];
  if (load.server.is !== "up" || (load.health?.ills ?? []).length > 0) return ["ill", "bad"];
  return ["serving", "good"];
}

/** How full a node is by bandwidth; unknown is shown as unknown, never as empty. */
function fullness(used, capacity) {
  if (used === null || used === undefined) return make("span", "", "?");
  const share = capacity ? Math.min(1, used / capacity) : null;
  const fill = make("i", "");
  fill.style.width = `${(share ?? 0) * 100}%`;
  const bar = make("span", "bar", fill, make("b", "", bits(used)));
  bar.title = share === null ? "capacity not known" : `${percent(share)} of ${bits(capacity)}`;
  return bar;
}

const ILLS = { server: "MediaMTX does not answer as it should", rtsp: "its RTSP port does not answer",
  streams: "its streams deliver nothing", disk: "no room for recordings" };

/** What is wrong with a node, the worst first. */
function troubles(member, now) {
  const load = member.load;
  const old = load ? now - load.sampled : null;
  const last = old === null ? "" : `, last figures ${span(old)} ago`;
  if (member.liveness === "dead") return [`silent, and another node confirms it${last}`];
  if (member.liveness === "suspect") return [`answers nobody just now${last}`];
  if (!load) return [];
  const found = [];
  const health = load.health ?? {};
  const ills = health.ills ?? [];
  if (load.server.why) found.push(`MediaMTX ${load.server.is}: ${load.server.why}`);
  for (const ill of ills) if (ill !== "server" || !load.server.why) found.push(ILLS[ill] ?? words(ill));
  if (health.restarts > 0 && ills.length > 0) found.push(`MediaMTX restarted ${several(health.restarts, "time")}`);
  if (health.hopeless) found.push("asks to be replaced");
  for (const other of health.unreachable ?? []) found.push(`cannot reach the RTSP port of ${other}`);
  if (!load.redis) found.push("does not reach Redis");
  if (old > LONG_AGO_MS) found.push(`figures are ${span(old)} old`);
  const cameras = member.cameras;
  if (cameras?.problem) found.push(`inventory: ${cameras.problem}`);
  for (const [name, what] of [["unreachable", "deliver nothing"], ["refused", "are refused by MediaMTX"],
    ["in_the_way", "are paths of the operator's own"], ["wrong", "left out of the inventory"]]) {
    const named = cameras?.[name];
    if (named?.count > 0) found.push(`${several(named.count, "camera")} ${what}: ${named.first.slice(0, 3).join(", ")}`);
  }
  return found;
}

function notes(member, now) {
  const load = member.load;
  const found = troubles(member, now);
  if (load?.protected) found.push("protected");
  if (load?.declines) found.push(`carries out no plan: ${load.declines}`);
  if (load?.discarded_packets > 0) found.push(`${load.discarded_packets} packets discarded for slow readers`);
  return found.join("; ");
}

/** What an operator should know first: nodes that are ill or gone, and roles that nobody decides for. */
function problems(fleet, orchestrators, now) {
  const found = [];
  for (const member of fleet.members) {
    const [state, how] = condition(member);
    const why = troubles(member, now);
    if (how !== "bad" && state !== "suspect" && (why.length === 0 || state === "offline")) continue;
    found.push([how === "bad" ? "bad" : "warn", member.node, state === "serving" ? "" : state, why.join("; ")]);
  }
  const orchestrated = orchestrators.some((view) => view.leader);
  for (const view of orchestrators) {
    // A fleet whose nodes are all told not to orchestrate is as it should be.
    if (!view.leader && orchestrated) found.push(["warn", words(view.role), "", "nobody orchestrates"]);
  }
  found.sort((one, other) => (one[0] === other[0] ? 0 : one[0] === "bad" ? -1 : 1));
  return found.map(([how, who, state, why]) =>
    make("li", how, make("strong", "name", who), state ? ` ${state}` : "", why ? `: ${why}` : ""));
}

function nodeTable(role, members, leader, now) {
  if (members.length === 0) return make("p", "empty", `No node of ${role} is known here.`);
  const counts = role === "ingestion" ? ["Cameras"] : ["Workers", "Viewers"];
  const bandwidth = role === "ingestion" ? "In" : "Out";
  const numbers = [...counts, "CPU", "Memory", "Disk free", "Up"];
  const head = make("tr", "");
  for (const name of ["Node", "State", ...counts, bandwidth, "CPU", "Memory", "Disk free", "Zone", "Up"]) {
    head.append(make("th", numbers.includes(name) ? "number" : "", name));
  }
  head.append(make("th", "", ""));
  const ordered = members.toSorted((one, other) => ORDER.indexOf(condition(one)[0]) - ORDER.indexOf(condition(other)[0]));
  const rows = ordered.map((member) => {
    const [state, how] = condition(member);
    // What a silent node carries now, nobody knows.
    const load = member.liveness === "alive" ? member.load ?? {} : { capacity: member.load?.capacity };
    const name = make("td", "", make("span", "name", member.node));
    if (member.node === leader) name.append(" ", make("span", "badge", "orchestrator"));
    const row = make("tr", how === "faint" || state === "dead" ? "gone" : "", name);
    row.append(make("td", "", make("span", `badge ${how}`, state)));
    const figures = role === "ingestion" ? [load.cameras] : [load.workers, load.viewers];
    for (const figure of figures) row.append(make("td", "number", known(figure)));
    row.append(make("td", "", fullness(role === "ingestion" ? load.inbound : load.outbound, load.capacity)));
    for (const share of [load.cpu, load.memory]) row.append(make("td", "number", percent(share)));
    row.append(make("td", "number", bytes(load.disk_free)));
    row.append(make("td", "", member.facts?.zone || "–"));
    row.append(make("td", "number", member.facts && member.liveness === "alive" ? span(now - member.facts.started) : "?"));
    row.append(make("td", "note", notes(member, now)));
    return row;
  });
  return make("table", "", make("thead", "", head), make("tbody", "", ...rows));
}

function drainCard(member, now) {
  const drain = member.drain;
  const reached = PHASES.indexOf(drain.phase);
  const phases = PHASES.map((phase, i) =>
    make("li", i < reached ? "done" : i === reached ? "now" : "", `${i + 1} ${words(phase).replace("pre ", "pre-")}`));
  const left = drain.deadline - now;
  const waits = (drain.waiting_for ?? []).map((reason) => make("li", "", reason));
  if (drain.waiting_more > 0) waits.push(make("li", "faint", `and ${drain.waiting_more} more`));
  return make("div", "card",
    make("strong", "name", member.node),
    ` drains for ${span(now - drain.started)}, ${left > 0 ? `${span(left)} left` : "past its deadline"}`,
    make("ol", "phases", ...phases),
    waits.length ? make("ul", "waits", ...waits) : make("span", "faint", member.liveness === "alive"
      ? "waiting for nothing" : "nothing is heard of it now"));
}

function orchestratorLine(view, members, seenBy) {
  if (!view) return [make("span", "empty", "Nobody is known to orchestrate.")];
  const parts = [];
  if (view.leader) {
    const epoch = view.epoch === null ? "" : `, epoch ${view.epoch}`;
    parts.push(make("span", "", "Orchestrated by ", make("strong", "name", view.leader), epoch));
  } else {
    const live = members.filter((member) => condition(member)[0] === "serving").length;
    const last = view.epoch === null ? "" : ` (the last term was epoch ${view.epoch})`;
    parts.push(make("span", "", make("strong", "", "No orchestrator"), last));
    const cause = live === 0
      ? `no node of ${view.role} serves, so nobody can be elected`
      : `no node of ${view.role} is known here to hold the lease`;
    const own = view.why ? `; ${seenBy} says of itself: ${view.why}` : "";
    parts.push(make("span", "why", `${cause}${own}. Nothing is grown, shrunk or drained by plan.`));
  }
  const plan = view.plan;
  if (plan) {
    parts.push(make("span", "", `plan ${plan.id.epoch}.${plan.id.number} wants ${several(plan.size, "node")}`));
    for (const drain of plan.drains) parts.push(make("span", "", `and ${drain.node} gone: ${drain.why}`));
  }
  if (view.dry_run) parts.push(make("span", "badge warn", "dry run: nothing is done"));
  if (view.paused) {
    const by = `paused through ${view.paused.by}`;
    parts.push(make("span", "badge warn", view.paused.why ? `${by}: ${view.paused.why}` : by));
  }
  return parts;
}

/** What came of a decision, and how to show it. */
function outcome(decision) {
  const result = decision.outcome;
  const undone = decision.effect === "dry_run" || decision.effect === "paused" ? ` (${words(decision.effect)})` : "";
  if (result.is === "grow") {
    const done = [result.launch && `${result.launch} launched`, result.cancel && `${result.cancel} put back`];
    return [`grow: ${done.filter(Boolean).join(", ")}${undone}`, "good"];
  }
  if (result.is === "shrink") return [`shrink: ${result.drain} drained${undone}`, "warn"];
  return ["nothing", "faint"];
}

function when(decision, now) {
  const last = now - decision.last < LONG_AGO_MS ? "now" : `${span(now - decision.last)} ago`;
  return decision.count > 1 ? `${last}, for ${span(decision.last - decision.first)}` : last;
}

function seen(decision) {
  const inputs = decision.inputs;
  const counts = [["serving", inputs.serving], ["launching", inputs.launching], ["draining", inputs.draining],
    ["unhealthy", inputs.unhealthy]];
  const nodes = counts.filter(([name, count]) => count > 0 || name === "serving").map(([name, count]) => `${count} ${name}`);
  const loads = inputs.loads.map((load) => {
    const known = load.metric.endsWith("bound") ? bits(load.known) : Math.round(load.known);
    return `${known} ${load.metric}${load.missing ? ` (not said by ${several(load.missing, "node")})` : ""}`;
  });
  return [...nodes, ...loads].join(", ");
}

function decisionTable(decisions, now, open) {
  if (!decisions || decisions.length === 0) return make("p", "empty", "No decision is known here.");
  const rows = decisions.toReversed().map((decision) => {
    const [text, how] = outcome(decision);
    const victims = (decision.victims ?? []).map((victim) => `${victim.node} goes, since ${victim.why}`);
    return make("tr", "",
      make("td", "", when(decision, now)),
      make("td", how, text),
      make("td", "note", [...decision.reasons, ...victims].join("; ")),
      make("td", "note", seen(decision)));
  });
  const head = make("tr", "");
  for (const name of ["When", "Decided", "Why", "Seen"]) head.append(make("th", "", name));
  const details = make("details", "", make("summary", "", "Last decisions"),
    make("table", "", make("thead", "", head), make("tbody", "", ...rows)));
  details.open = open;
  return details;
}

function draw(fleet, orchestrators) {
  const now = fleet.at;
  const counts = new Map();
  for (const member of fleet.members) {
    const [state] = condition(member);
    counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  const total = fleet.members.length;
  const serving = counts.get("serving") ?? 0;
  const others = ORDER.filter((state) => state !== "serving" && counts.has(state)).map((state) => `, ${counts.get(state)} ${state}`);
  const unnamed = fleet.members.filter((member) => !member.facts).map((member) => member.node);
  at("cluster").textContent = fleet.cluster;
  document.title = `${fleet.cluster}: ${serving} of ${total} nodes serve`;
  at("summary").textContent = `${serving} of ${total} nodes serve${others.join("")}`
    + (unnamed.length ? `; not heard well enough to know the role of ${unnamed.join(", ")}` : "");
  at("source").textContent = `as ${fleet.seen_by} knows it, ${new Date(now).toLocaleTimeString([], { hour12: false })}`;
  const wrong = problems(fleet, orchestrators, now);
  at("problems").hidden = wrong.length === 0;
  at("problems").querySelector("ul").replaceChildren(...wrong);
  for (const role of ["distribution", "ingestion"]) {
    const section = at(role);
    const members = fleet.members.filter((member) => member.facts?.role === role);
    const view = orchestrators.find((one) => one.role === role);
    section.querySelector(".orchestrator").replaceChildren(...orchestratorLine(view, members, fleet.seen_by));
    section.querySelector(".nodes").replaceChildren(nodeTable(role, members, view?.leader, now));
    const shown = section.querySelector("details");
    section.querySelector(".decisions").replaceChildren(decisionTable(view?.decisions, now, shown ? shown.open : true));
  }
  const draining = fleet.members.filter((member) => member.drain);
  at("drains").hidden = draining.length === 0;
  at("drains").querySelector(".cards").replaceChildren(...draining.map((member) => drainCard(member, now)));
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(3000) });
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}`);
  return answer.json();
}

let heard = null;

async function turn() {
  if (!document.hidden) {
    try {
      const [fleet, orchestrators] = await Promise.all([ask("v1/fleet"), ask("v1/orchestrators")]);
      draw(fleet, orchestrators);
      heard = Date.now();
      at("lost").hidden = true;
    } catch (error) {
      at("lost").hidden = false;
      const age = heard === null ? "nothing was heard yet" : `what is shown is ${span(Date.now() - heard)} old`;
      at("lost").textContent = `This agent does not answer (${error.message}); ${age}. Any other agent shows the same page.`;
    }
  }
  setTimeout(turn, EVERY_MS);
}

turn();

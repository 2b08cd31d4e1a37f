use super::super::seal::Sender;
use super::*;

const ME: &str = "me";
const NAMES: [&str; 2] = ["n1", "n2"];
const ROUND: Duration = Duration::from_millis(200);

fn detector() -> Detector {
    Detector::new(Subject { node: NodeId::new(ME).unwrap(), generation: 10 }, ROUND, 1)
}

fn heard(heartbeat: u64) -> Heard {
    Heard { generation: 1, address: ([127, 0, 0, 1], 7946).into(), heartbeat, left: false }
}

fn subject() -> Subject {
    Subject { node: NodeId::new(NAMES[0]).unwrap(), generation: 1 }
}

/// A detector that watches `n1` and `n2`, and the time that passes over them.
struct Watching {
    detector: Detector,
    heartbeats: [u64; 2],
}

impl Watching {
    /// Both were heard.
    fn new() -> Self {
        let mut watching = Self { detector: detector(), heartbeats: [0, 0] };
        watching.look(&[0, 1]);
        watching.look(&[0, 1]);
        watching.sent();
        watching
    }

    /// A look in which the heartbeats of `beating` have risen. Whether a verdict changed.
    fn look(&mut self, beating: &[usize]) -> bool {
        let mut changed = false;
        self.detector.begin_look(LOOK_EVERY);
        for (index, name) in NAMES.iter().enumerate() {
            self.heartbeats[index] += u64::from(beating.contains(&index));
            changed |= self.detector.see(&NodeId::new(*name).unwrap(), heard(self.heartbeats[index]));
        }
        self.detector.end_look();
        changed
    }

    fn sent(&mut self) -> Vec<Probe> {
        self.detector.take_probes().map(|(_, probe)| probe).collect()
    }

    fn receive(&mut self, from: &str, generation: u64, probe: Probe) -> bool {
        let address = ([127, 0, 0, 1], 7946).into();
        let from = Sender { node: NodeId::new(from).unwrap(), address, generation };
        self.detector.receive(Received { from, probe })
    }

    fn alive(&self, index: usize) -> bool {
        self.detector.is_alive(&NodeId::new(NAMES[index]).unwrap())
    }

    /// Looks in which only `n2` is heard, until `n1` is asked; the number that its answer must bear.
    fn until_asked(&mut self) -> Nonce {
        for _ in 0..10 {
            self.look(&[1]);
            if let Some(Probe::Ping { nonce, node }) = self.sent().pop() {
                assert_eq!(node.as_str(), NAMES[0]);
                return nonce;
            }
        }
        panic!("not asked");
    }
}

#[test]
fn a_node_that_answers_is_not_silent_and_an_answer_to_nothing_is_none() {
    let mut watching = Watching::new();
    let nonce = watching.until_asked();
    for (from, generation, wrong) in [(NAMES[0], 1, nonce + 1), (NAMES[0], 2, nonce), (NAMES[1], 1, nonce)] {
        watching.receive(from, generation, Probe::Pong { nonce: wrong });
    }
    for _ in 0..5 {
        watching.look(&[1]);
    }
    assert!(!watching.alive(0), "none of these was its answer to this question");
    assert!(watching.sent().iter().any(|probe| matches!(probe, Probe::Doubt { about, .. } if *about == subject())));
    assert!(watching.receive(NAMES[0], 1, Probe::Pong { nonce }));
    assert!(watching.alive(0) && watching.alive(1));
}

#[test]
fn whoever_doubts_is_told_of_an_answer_and_of_no_heartbeat() {
    let mut watching = Watching::new();
    watching.receive(NAMES[1], 1, Probe::Doubt { nonce: 5, about: subject() });
    let asked = watching.sent();
    let [Probe::Ping { nonce, .. }] = asked[..] else { panic!("{asked:?}") };
    watching.look(&[0, 1]);
    assert_eq!(watching.sent(), [], "it may have been on its way for long");
    watching.receive(NAMES[0], 1, Probe::Pong { nonce });
    assert_eq!(watching.sent(), [Probe::Vouch { nonce: 5, node: NodeId::new(NAMES[0]).unwrap() }]);
}

#[test]
fn a_verdict_of_another_is_taken_only_when_it_does_not_answer_here_either() {
    let mut watching = Watching::new();
    watching.receive(NAMES[1], 1, Probe::Silent { about: subject() });
    assert!(watching.alive(0), "it is asked first");
    let asked = watching.sent();
    let [Probe::Ping { nonce, .. }] = asked[..] else { panic!("{asked:?}") };
    watching.receive(NAMES[0], 1, Probe::Pong { nonce });
    watching.look(&[1]);
    watching.look(&[1]);
    assert!(watching.alive(0), "it answered");
    watching.receive(NAMES[1], 1, Probe::Silent { about: subject() });
    watching.look(&[1]);
    assert!(watching.look(&[1]));
    assert!(!watching.alive(0));
    assert!(watching.detector.somebody_fell_silent());
}

#[test]
fn a_doubt_about_this_node_is_answered_by_itself_and_one_about_a_stranger_is_not() {
    let mut watching = Watching::new();
    let me = Subject { node: NodeId::new(ME).unwrap(), generation: 10 };
    watching.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: me.clone() });
    assert_eq!(watching.sent(), [Probe::Vouch { nonce: 9, node: me.node.clone() }]);
    watching.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { generation: 9, ..me } });
    watching.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { generation: 2, ..subject() } });
    let stranger = NodeId::new("stranger").unwrap();
    watching.receive(NAMES[1], 1, Probe::Doubt { nonce: 9, about: Subject { node: stranger, ..subject() } });
    assert_eq!(watching.sent(), []);
}

#[test]
fn who_is_not_seen_any_more_is_forgotten_and_a_later_start_is_a_sign_of_life() {
    let mut watching = Watching::new();
    let node = NodeId::new(NAMES[0]).unwrap();
    (0..20).for_each(|_| _ = watching.look(&[1]));
    assert!(!watching.alive(0));
    let mut look = |generation: u64| {
        watching.detector.begin_look(LOOK_EVERY);
        let changed = watching.detector.see(&node, Heard { generation, ..heard(9) });
        watching.detector.end_look();
        (changed, watching.detector.is_alive(&node))
    };
    assert_eq!(look(2), (true, true), "it started anew after it fell silent");
    let looks: Vec<bool> = (0..20).map(|_| look(2).1).collect();
    assert!(looks[7] && !looks[9], "and it is watched: {looks:?}");
    assert_eq!(look(1), (false, false), "what comes of an earlier start is old");
    assert!(!watching.alive(1), "n2 was not seen");
}

/// `count` nodes, each heard, then all of them silent: how many live, and how many probes were sent, after each look.
fn all_silent(count: usize, looks: usize, pace: impl Fn(usize) -> Duration) -> Vec<(usize, usize)> {
    let mut detector = detector();
    let names: Vec<NodeId> = (0..count).map(|number| NodeId::new(format!("x{number:03}")).unwrap()).collect();
    let mut look = |heartbeat: u64, since_last: Duration| {
        detector.begin_look(since_last);
        for node in &names {
            detector.see(node, heard(heartbeat));
        }
        detector.end_look();
        let sent = detector.take_probes().count();
        (names.iter().filter(|node| detector.is_alive(node)).count(), sent)
    };
    look(1, LOOK_EVERY);
    assert_eq!(look(2, LOOK_EVERY).0, count);
    (0..looks).map(|number| look(2, pace(number))).collect()
}

#[test]
fn probes_are_bounded_when_everybody_falls_silent() {
    let most = all_silent(400, 60, |_| LOOK_EVERY).into_iter().map(|(_, sent)| sent).max();
    assert!(most <= Some(MAX_TO_SEND + 400), "a ping each, and help within the bound: {most:?}");
}

#[test]
fn when_many_are_silent_at_once_nobody_is_judged_in_haste_and_questions_are_few() {
    let silent = all_silent(12, 60, |_| LOOK_EVERY);
    assert_eq!(silent[15].0, 12, "one of them would have been silent long ago");
    assert_eq!(silent[59].0, 0, "and in the end they are");
    let most = silent.iter().map(|(_, sent)| *sent).max();
    assert!(most <= Some(12 * (1 + ASKED_AGAIN)), "{most:?} at once");
}

#[test]
fn a_machine_that_holds_up_looks_at_a_bad_pace_delays_a_verdict_and_never_prevents_it() {
    // Every other look is late: those that are not may be all but the fourth ones.
    let paces: [fn(usize) -> bool; 4] = [|n| n % 2 == 0, |n| n % 2 == 1, |n| n % 4 < 3, |_| true];
    for (number, is_late) in paces.into_iter().enumerate() {
        let silent = all_silent(12, 120, |look| if is_late(look) { LATE * 2 } else { LOOK_EVERY });
        assert_eq!(silent[119].0, 0, "pace {number}: all of them are silent, and this node runs, if badly");
    }
}

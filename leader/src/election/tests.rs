use mtxfleet_wire::LeaseHolder;

use super::*;

const ROLE: Role = Role::Distribution;
const ME: RunId = RunId(1);
const OTHER: RunId = RunId(2);

fn at(ms: u64) -> Mono {
    Mono(Duration::from_millis(ms))
}

fn id(text: &str) -> NodeId {
    NodeId::new(text).expect("valid")
}

fn token(epoch: u64, run: RunId) -> Token {
    Token { epoch, run }
}

fn election() -> Election {
    Election::new(ROLE, id("me"), ME, Settings::default(), Terms::default())
}

fn tick(election: &mut Election, ms: u64) -> Vec<LeaseOrder> {
    election.tick(at(ms), NodeState::Active)
}

/// The one order of this tick.
fn ask(election: &mut Election, ms: u64) -> LeaseOrder {
    let mut orders = tick(election, ms);
    assert_eq!(orders.len(), 1, "{orders:?}");
    orders.remove(0)
}

fn granted(epoch: u64) -> LeaseAnswer {
    LeaseAnswer::Granted { epoch, wait: Duration::ZERO }
}

fn save(election: &mut Election, ms: u64) {
    if let Some(terms) = election.to_save(at(ms)) {
        election.saved(at(ms), terms, true);
    }
}

/// It asked at 0 and holds term 1.
fn leader() -> Election {
    let mut election = election();
    let order = ask(&mut election, 0);
    assert_eq!(order.ask, LeaseAsk::Take { floor: 0 });
    election.answered(at(10), order.number, granted(1));
    save(&mut election, 10);
    election
}

fn is_acting(election: &Election, ms: u64) -> bool {
    matches!(election.standing(at(ms)), Standing::Acting { .. })
}

fn neighbour<'a>(node: &'a NodeId, terms: &'a TermsReport) -> Neighbour<'a> {
    Neighbour {
        node,
        alive: true,
        role: Some(ROLE),
        state: Some(NodeState::Active),
        reaches_redis: terms.lease.is_some(),
        terms: Some(terms),
    }
}

fn knows(epoch: u64, run: RunId) -> TermsReport {
    let known = Terms { distribution: Some(token(epoch, run)), ..Terms::default() };
    TermsReport { known, ..TermsReport::default() }
}

#[test]
fn a_lease_is_valid_from_before_it_was_asked_for_and_not_a_moment_longer() {
    let mut election = election();
    let order = ask(&mut election, 1_000);
    election.answered(at(2_500), order.number, granted(1));
    save(&mut election, 2_500);
    let Standing::Acting { token, valid_for } = election.standing(at(2_500)) else { panic!("{election:?}") };
    assert_eq!((token.epoch, token.run), (1, ME));
    assert_eq!(valid_for, Duration::from_millis(6_000 - 120 - 1_500), "from 1,000 on, less a margin");
    assert!(is_acting(&election, 6_879) && !is_acting(&election, 6_880));
}

#[test]
fn a_term_is_acted_on_only_when_it_is_on_disk_and_a_disk_that_refuses_frees_the_lease_for_another() {
    let mut election = election();
    let order = ask(&mut election, 0);
    election.answered(at(10), order.number, granted(1));
    assert_eq!(election.standing(at(10)), Standing::Idle(Why::Saving));
    assert!(!election.accepts(ROLE, token(1, ME)));
    let terms = election.to_save(at(10)).expect("a new term");
    assert_eq!(election.to_save(at(11)), None, "it is being written");
    election.saved(at(20), terms, false);
    assert_eq!(ask(&mut election, 20).ask, LeaseAsk::Release { epoch: 1 });
    assert!(tick(&mut election, 4_000).is_empty());
    let again = ask(&mut election, 5_020);
    assert_eq!(again.ask, LeaseAsk::Take { floor: 1 });
    election.answered(at(5_030), again.number, granted(2));
    save(&mut election, 5_030);
    assert!(is_acting(&election, 5_030));
}

#[test]
fn a_renewal_in_time_goes_on_and_one_that_is_lost_ends_it_at_once() {
    let mut election = leader();
    assert!(tick(&mut election, 1_400).is_empty());
    let order = ask(&mut election, 1_500);
    assert_eq!(order.ask, LeaseAsk::Renew { epoch: 1 });
    election.answered(at(1_510), order.number, granted(1));
    assert!(is_acting(&election, 7_000));
    let order = ask(&mut election, 3_000);
    election.answered(at(3_010), order.number, LeaseAnswer::Lost);
    assert!(!is_acting(&election, 3_010));
    assert_eq!(ask(&mut election, 3_010).ask, LeaseAsk::Take { floor: 1 }, "under a new number");
}

#[test]
fn a_renewal_that_fails_is_tried_again_and_an_answer_that_comes_late_gives_nothing() {
    let mut election = leader();
    let first = ask(&mut election, 1_500);
    election.answered(at(1_600), first.number, LeaseAnswer::Unreachable("no".into()));
    assert!(tick(&mut election, 2_000).is_empty());
    let second = ask(&mut election, 2_100);
    assert_eq!(second.ask, LeaseAsk::Renew { epoch: 1 });
    election.answered(at(2_200), first.number, granted(1));
    assert!(!is_acting(&election, 5_900), "the late answer is not for the ask under way");
}

#[test]
fn a_node_that_leaves_service_or_stops_gives_the_lease_back_at_once() {
    let mut election = leader();
    let orders = election.tick(at(100), NodeState::Draining);
    assert_eq!(orders.iter().map(|order| order.ask).collect::<Vec<_>>(), [LeaseAsk::Release { epoch: 1 }]);
    assert_eq!(election.standing(at(100)), Standing::Idle(Why::NotInService(NodeState::Draining)));
    assert_eq!((election.report(at(100)).lease, election.wake()), (None, None));
    let mut election = leader();
    assert_eq!(election.stop(at(100))[0].ask, LeaseAsk::Release { epoch: 1 });
    assert!(!is_acting(&election, 100) && tick(&mut election, 10_000).is_empty());
}

#[test]
fn a_term_granted_to_a_node_that_has_left_service_meanwhile_goes_back_and_its_number_is_never_used() {
    let mut election = election();
    let order = ask(&mut election, 0);
    assert!(election.tick(at(5), NodeState::Draining).is_empty());
    election.answered(at(10), order.number, granted(4));
    let orders = election.tick(at(10), NodeState::Draining);
    assert_eq!(orders[0].ask, LeaseAsk::Release { epoch: 4 });
    assert_eq!(ask(&mut election, 2_000).ask, LeaseAsk::Take { floor: 4 });
}

#[test]
fn a_holder_that_hears_of_a_later_term_or_of_another_run_of_its_own_takes_a_number_above() {
    for (heard, floor) in [(token(7, OTHER), 7), (token(1, OTHER), 1)] {
        let mut election = leader();
        let (peer, report) = (id("a"), knows(heard.epoch, heard.run));
        election.hear(at(100), &[neighbour(&peer, &report)]);
        assert!(!is_acting(&election, 100), "{heard}");
        let asks: Vec<LeaseAsk> = tick(&mut election, 100).iter().map(|order| order.ask).collect();
        assert_eq!(asks, [LeaseAsk::Release { epoch: 1 }, LeaseAsk::Take { floor }], "{heard}");
    }
}

#[test]
fn of_one_epoch_the_run_heard_first_is_obeyed_and_an_older_epoch_never() {
    let mut election = election();
    let (peer, report) = (id("a"), knows(5, OTHER));
    election.hear(at(0), &[neighbour(&peer, &report)]);
    assert!(!election.accepts(ROLE, token(5, OTHER)), "not on disk yet");
    save(&mut election, 0);
    assert!(election.accepts(ROLE, token(5, OTHER)));
    for refused in [token(5, RunId(3)), token(4, OTHER)] {
        election.hear_token(ROLE, refused);
        save(&mut election, 0);
        assert!(!election.accepts(ROLE, refused), "{refused}");
    }
    election.hear_token(ROLE, token(6, RunId(3)));
    assert!(!election.accepts(ROLE, token(5, OTHER)), "a later term is known, if not on disk yet");
}

#[test]
fn a_lease_that_did_not_reach_the_replicas_is_given_back_and_a_renewal_that_did_not_adds_no_time() {
    let mut election = election();
    let order = ask(&mut election, 0);
    election.answered(at(10), order.number, LeaseAnswer::NotReplicated { epoch: 3 });
    assert_eq!(ask(&mut election, 10).ask, LeaseAsk::Release { epoch: 3 });
    let order = ask(&mut election, 600);
    assert_eq!(order.ask, LeaseAsk::Take { floor: 3 });
    election.answered(at(600), order.number, granted(4));
    save(&mut election, 600);
    let order = ask(&mut election, 2_100);
    election.answered(at(2_110), order.number, LeaseAnswer::NotReplicated { epoch: 4 });
    assert!(is_acting(&election, 6_400) && !is_acting(&election, 6_480));
}

#[test]
fn after_redis_lost_its_past_a_holder_waits_one_ttl_before_it_acts() {
    let mut election = election();
    let order = ask(&mut election, 0);
    election.answered(at(10), order.number, LeaseAnswer::Granted { epoch: 9, wait: Duration::from_secs(6) });
    save(&mut election, 10);
    for ms in (1_500..6_000).step_by(1_500) {
        let renewal = ask(&mut election, ms);
        election.answered(at(ms + 10), renewal.number, granted(9));
    }
    assert!(matches!(election.standing(at(6_009)), Standing::Idle(Why::WaitingOut { .. })));
    assert!(is_acting(&election, 6_010));
}

#[test]
fn a_follower_asks_when_the_lease_ends_and_at_once_when_its_holder_says_that_it_gave_it_up() {
    let mut election = election();
    let by = LeaseHolder { node: id("a"), token: token(3, OTHER) };
    let order = ask(&mut election, 0);
    election.answered(at(10), order.number, LeaseAnswer::Held { by: by.clone(), left: Duration::from_millis(400) });
    assert_eq!(election.standing(at(10)), Standing::Following { leader: Some(by.clone()) });
    assert_eq!(election.wake(), Some(at(430)));
    let order = ask(&mut election, 430);
    election.answered(at(440), order.number, LeaseAnswer::Held { by: by.clone(), left: Duration::from_secs(6) });
    assert_eq!(election.wake(), Some(at(940)));
    let (peer, mut report) = (id("a"), knows(3, OTHER));
    election.hear(at(450), &[neighbour(&peer, &report)]);
    assert_eq!(election.wake(), Some(at(940)), "it has not said that it holds the lease, so it cannot unsay it");
    report.lease = Some(by);
    election.hear(at(460), &[neighbour(&peer, &report)]);
    report.lease = None;
    election.hear(at(470), &[neighbour(&peer, &report)]);
    assert_eq!(ask(&mut election, 470).ask, LeaseAsk::Take { floor: 3 });
}

/// Redis answered at 0 and has been asked in vain until `ms`; `others` are heard just then.
fn without_redis(election: &mut Election, ms: u64, others: &[Neighbour<'_>]) -> Standing {
    let order = ask(election, 0);
    let by = LeaseHolder { node: id("z"), token: token(3, OTHER) };
    election.answered(at(0), order.number, LeaseAnswer::Held { by, left: Duration::from_millis(100) });
    election.registered(others.iter().map(|other| other.node.clone()));
    election.hear(at(0), others);
    for now in (0..=ms).step_by(100) {
        for order in tick(election, now) {
            election.answered(at(now), order.number, LeaseAnswer::Unreachable("refused".into()));
        }
        election.hear(at(now), others);
    }
    election.standing(at(ms))
}

#[test]
fn without_redis_the_first_of_a_majority_lets_the_cluster_grow_and_nobody_else() {
    let (silent, z) = (TermsReport::default(), id("z"));
    let alone = |alive| Neighbour { alive, ..neighbour(&z, &silent) };
    assert_eq!(without_redis(&mut election(), 20_000, &[alone(true)]), Standing::GrowOnly { token: None });
    let no = |not| Standing::Idle(Why::NoRedis(not));
    let half = NotGrowing::NoMajority { alive: 1, known: 2 };
    assert_eq!(without_redis(&mut election(), 20_000, &[alone(false)]), no(half));
    let a = id("a");
    let before = [neighbour(&a, &silent), alone(true)];
    assert_eq!(without_redis(&mut election(), 20_000, &before), no(NotGrowing::NotTheFirst(id("a"))));
    // It was restarted meanwhile, say, and knows nothing of the fleet: nobody is to wait for it.
    let unable = TermsReport { cannot_grow: true, ..TermsReport::default() };
    let restarted = [neighbour(&a, &unable), alone(true)];
    assert!(matches!(without_redis(&mut election(), 20_000, &restarted), Standing::GrowOnly { .. }));
    let other_role = [Neighbour { role: Some(Role::Ingestion), ..neighbour(&a, &silent) }, alone(true)];
    assert!(matches!(without_redis(&mut election(), 20_000, &other_role), Standing::GrowOnly { .. }));
    let sees = Neighbour { reaches_redis: true, ..neighbour(&z, &silent) };
    assert_eq!(without_redis(&mut election(), 20_000, &[sees]), no(NotGrowing::AnotherReachesRedis(id("z"))));
    let soon = without_redis(&mut election(), 8_000, &[alone(true)]);
    assert!(matches!(soon, Standing::Idle(Why::NoRedis(NotGrowing::LeaseMayLive(_)))), "{soon:?}");
}

#[test]
fn an_agent_says_that_it_lets_nothing_grow_until_it_has_read_the_registry() {
    let mut election = election();
    assert!(election.report(at(0)).cannot_grow);
    without_redis(&mut election, 20_000, &[]);
    assert!(!election.report(at(20_000)).cannot_grow);
}

#[test]
fn a_half_that_is_cut_off_does_not_find_itself_whole_when_gossip_forgets_the_others() {
    let (silent, y, z) = (TermsReport::default(), id("y"), id("z"));
    let mut election = election();
    let lost =
        [Neighbour { alive: false, ..neighbour(&y, &silent) }, Neighbour { alive: false, ..neighbour(&z, &silent) }];
    without_redis(&mut election, 20_000, &lost);
    election.hear(at(20_000), &[]);
    let why = NotGrowing::NoMajority { alive: 1, known: 3 };
    assert_eq!(election.standing(at(20_000)), Standing::Idle(Why::NoRedis(why)));
}

#[test]
fn whoever_was_frozen_looks_again_before_it_lets_anything_grow() {
    let mut fresh = election();
    fresh.crowd.reached(at(0));
    fresh.crowd.not_reached(at(0));
    let why = Standing::Idle(Why::NoRedis(NotGrowing::NeverReachedRedis));
    assert_eq!(fresh.standing(at(20_000)), why, "the registry was not read");
    let mut election = election();
    without_redis(&mut election, 8_000, &[]);
    let thawed = election.standing(at(40_000));
    assert_eq!(thawed, Standing::Idle(Why::NoRedis(NotGrowing::NotKnown)));
}

#[test]
fn an_agent_that_may_not_lead_asks_nothing_and_still_keeps_the_terms() {
    let settings = Settings { candidate: false, ..Settings::default() };
    let mut election = Election::new(ROLE, id("me"), ME, settings, Terms::default());
    assert!(tick(&mut election, 0).is_empty() && election.wake().is_none());
    assert_eq!(election.standing(at(0)), Standing::Idle(Why::NotACandidate));
    election.hear_token(ROLE, token(2, OTHER));
    save(&mut election, 0);
    assert!(election.accepts(ROLE, token(2, OTHER)));
}

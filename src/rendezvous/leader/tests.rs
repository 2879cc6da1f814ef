use super::*;
use crate::control::request::Answer;
use crate::rendezvous::request::{Ask, Progress, Word};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules(min_nodes: usize, max_nodes: usize) -> Rules {
    Rules {
        min_nodes,
        max_nodes,
        fixed: false,
        last_call: 2 * SECOND,
        dead_after: 15 * SECOND,
        reconnect: SECOND,
        max_restarts: 3,
        max_host_failures: 0,
        save_before_change: Duration::ZERO,
    }
}

fn join(id: &str) -> Message {
    Message::Join(Node::named(id))
}

fn leave(id: &str) -> Message {
    Message::Leave { id: id.into(), reason: "asked to".into() }
}

const THREE: Exit = Exit { code: Some(3), timed_out: false };

fn failed(id: &str, round: u64) -> Message {
    Message::Failed { id: id.into(), round, reason: format!("{id} failed"), exit: THREE, last: false }
}

fn done(id: &str, round: u64) -> Message {
    Message::Done { id: id.into(), round }
}

fn leader(rules: Rules) -> Leader {
    Leader::new(rules, "a", State::new("a"), Duration::ZERO)
}

fn tell(leader: &mut Leader, messages: &[Message], now: Moment) {
    messages.iter().for_each(|message| leader.receive(message.clone(), now));
}

fn ids(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.id.as_str()).collect()
}

#[test]
fn dyn_01_it_completes_when_the_last_has_come() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a")], SECOND);
    assert_eq!(leader.publish(), None);
    tell(&mut leader, &[join("b")], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.phase, ids(&state.nodes).as_str(), state.round), (Phase::Complete, "ab", 0));
    assert_eq!(state.taken, 2);
}

#[test]
fn job_07_who_has_lost_its_connection_is_missed_unless_it_comes_back() {
    let lost = |beat| Message::Lost { id: "b".into(), beat };
    let begun = || {
        let mut leader = leader(rules(1, 2));
        tell(&mut leader, &[join("a"), join("b")], SECOND);
        leader.saw("b", 7, SECOND);
        leader.publish();
        leader
    };
    let doubted = |leader: &Leader, now| leader.doubted(now).map(String::from).collect::<Vec<_>>();
    let mut leader = begun();
    tell(&mut leader, &[lost(8)], 2 * SECOND);
    assert_eq!(leader.deadline(), Some(3 * SECOND));
    assert!(doubted(&leader, 2 * SECOND).is_empty());
    assert_eq!(doubted(&leader, 3 * SECOND), ["b"]);
    let mut back = leader.clone();
    leader.saw("b", 8, 3 * SECOND);
    leader.tick(3 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.phase, state.round, ids(&state.nodes).as_str()), (Phase::Gathering, 1, "a"));
    assert!(state.why.text().contains("its connection has ended"), "{}", state.why.text());
    // It beats again.
    back.saw("b", 9, 3 * SECOND);
    back.tick(3 * SECOND);
    assert_eq!((back.publish(), back.deadline()), (None, Some(18 * SECOND)));
    // It has come back before that was heard, and has beaten since.
    let mut late = begun();
    late.saw("b", 9, 2 * SECOND);
    tell(&mut late, &[lost(8), Message::Lost { id: "x".into(), beat: 1 }], 2 * SECOND);
    late.tick(4 * SECOND);
    assert_eq!(late.publish(), None);
    // Time in which the leader stood still does not count.
    let mut still = begun();
    tell(&mut still, &[lost(8)], 2 * SECOND);
    still.give_back(60 * SECOND, 62 * SECOND);
    still.tick(62 * SECOND);
    assert_eq!((still.publish(), still.deadline()), (None, Some(63 * SECOND)));
}

#[test]
fn job_13_a_host_that_comes_and_goes_waits_for_a_place() {
    let on =
        |id: &str, host: &str| Message::Join(Node { name: format!("{host} (PID {id})"), ..Node::named(id) });
    let unfit = |id: &str| Message::Unfit { id: id.into(), reason: "no program".into() };
    let mut leader = leader(rules(1, 3));
    tell(&mut leader, &[on("a", "h")], SECOND);
    leader.tick(3 * SECOND);
    let mut now = 10 * SECOND;
    let mut come = |leader: &mut Leader, id: &str, host: &str| {
        now += SECOND;
        tell(leader, &[on(id, host)], now);
        let is_round = leader.state.phase == Phase::Gathering;
        if is_round {
            tell(leader, &[on("a", "h")], now);
        }
        (is_round, now)
    };
    assert!(come(&mut leader, "b", "bad").0);
    tell(&mut leader, &[unfit("b")], 20 * SECOND);
    tell(&mut leader, &[on("a", "h")], 20 * SECOND);
    assert_eq!((leader.state.round, ids(&leader.state.nodes).as_str()), (2, "a"));
    let (is_round, now) = come(&mut leader, "c", "bad");
    assert!(!is_round && ids(&leader.state.spares) == "c");
    // Another host has no part in that.
    assert!(come(&mut leader, "d", "good").0);
    assert_eq!((ids(&leader.state.nodes).as_str(), ids(&leader.state.spares).as_str()), ("ad", "c"));
    // It has been there for as long as it had to wait.
    assert_eq!(leader.waiting["c"], now + Duration::from_secs(15));
    leader.saw("c", 1, now + 14 * SECOND);
    leader.saw("d", 1, now + 14 * SECOND);
    leader.tick(now + 14 * SECOND);
    assert_eq!(leader.state.phase, Phase::Complete);
    leader.tick(now + 15 * SECOND);
    assert_eq!(leader.state.phase, Phase::Gathering);
    tell(&mut leader, &[on("a", "h"), on("d", "good")], now + 15 * SECOND);
    assert_eq!(ids(&leader.state.nodes), "acd");
    // A second time it waits twice as long; where it is needed it has a place at once.
    tell(&mut leader, &[unfit("c")], now + 16 * SECOND);
    tell(&mut leader, &[on("a", "h"), on("d", "good")], now + 16 * SECOND);
    tell(&mut leader, &[on("e", "bad")], now + 17 * SECOND);
    assert_eq!(leader.waiting["e"], now + 47 * SECOND);
    // Who leads next knows of it.
    let next = Leader::new(leader.rules.clone(), "d", leader.state.clone(), now + 20 * SECOND);
    assert_eq!(next.waiting["e"], now + 50 * SECOND);
    leader.rules.min_nodes = 3;
    let round = leader.state.round;
    tell(&mut leader, &[failed("a", round)], now + 18 * SECOND);
    tell(&mut leader, &[on("a", "h"), on("d", "good")], now + 18 * SECOND);
    assert_eq!((leader.state.phase.clone(), ids(&leader.state.nodes)), (Phase::Complete, "ade".into()));
}

#[test]
fn job_09_a_job_whose_states_are_lost_goes_on_where_its_nodes_were() {
    let mut leader = leader(Rules { max_restarts: 3, ..rules(2, 2) });
    let knows = Node { from_round: 5, restarts: 2, ..Node::named("b") };
    tell(&mut leader, &[join("a"), Message::Join(knows)], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.phase, state.round, state.restarts), (Phase::Complete, 5, 2));
    // Nobody moves a round that is known.
    tell(&mut leader, &[failed("a", 5), join("a")], SECOND);
    tell(&mut leader, &[Message::Join(Node { from_round: 99, restarts: 9, ..Node::named("b") })], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.round, state.restarts), (6, 3));
}

#[test]
fn dyn_02_the_last_call_ends_by_time_or_by_the_last_place() {
    for third in [false, true] {
        let mut leader = leader(rules(2, 3));
        tell(&mut leader, &[join("a"), join("b")], SECOND);
        assert_eq!(leader.deadline(), Some(3 * SECOND));
        if third {
            tell(&mut leader, &[join("c")], 2 * SECOND);
        } else {
            leader.tick(2 * SECOND);
            assert_eq!(leader.publish(), None);
            leader.tick(3 * SECOND);
        }
        let wanted = if third { "abc" } else { "ab" };
        assert_eq!(ids(&leader.publish().unwrap().nodes), wanted);
    }
}

#[test]
fn dyn_04_a_newcomer_opens_the_next_round_which_ends_with_the_last_one_back() {
    let mut leader = leader(rules(1, 3));
    tell(&mut leader, &[join("a")], SECOND);
    leader.tick(3 * SECOND);
    assert_eq!(ids(&leader.publish().unwrap().nodes), "a");
    tell(&mut leader, &[join("b")], 9 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((&state.phase, state.round, state.restarts), (&Phase::Gathering, 1, 0));
    assert_eq!(state.why.text(), "node b has come");
    tell(&mut leader, &[join("a")], 10 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.phase, ids(&state.nodes).as_str()), (Phase::Complete, "ab"));
}

#[test]
fn dyn_08_a_spare_is_promoted_and_dyn_10_one_without_a_sign_is_dropped() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a"), join("b"), join("c")], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((ids(&state.nodes).as_str(), ids(&state.spares).as_str()), ("ab", "c"));
    for second in 2..=20u32 {
        leader.saw("c", second.into(), second * SECOND);
        leader.saw("b", 1, second * SECOND);
        leader.tick(second * SECOND);
    }
    let state = leader.publish().unwrap();
    assert_eq!((state.round, ids(&state.nodes).as_str()), (1, "a"));
    assert_eq!(state.why.text(), "node b has vanished: no sign of it for 15s");
    tell(&mut leader, &[join("a")], 21 * SECOND);
    assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
}

#[test]
fn dyn_13_when_all_are_gone_the_next_round_is_open_to_all() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a"), join("b"), leave("b"), leave("a")], SECOND);
    leader.hand_over();
    let state = leader.publish().unwrap();
    assert_eq!((state.leader.clone(), &state.phase, state.round), (None, &Phase::Gathering, 1));
    let mut next = Leader::new(rules(2, 2), "c", state, SECOND);
    tell(&mut next, &[join("c"), join("d")], SECOND);
    assert_eq!(ids(&next.publish().unwrap().nodes), "cd");
}

#[test]
fn dyn_22_too_few_nodes_end_the_last_call() {
    let mut leader = leader(rules(2, 3));
    tell(&mut leader, &[join("a"), join("b"), leave("b")], SECOND);
    leader.tick(4 * SECOND);
    assert_eq!(leader.publish(), None);
    tell(&mut leader, &[join("c")], 9 * SECOND);
    leader.tick(10 * SECOND);
    assert_eq!(leader.publish(), None);
    leader.tick(11 * SECOND);
    assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
}

#[test]
fn dyn_30_who_is_expected_back_is_waited_for() {
    let mut leader = leader(rules(1, 2));
    tell(&mut leader, &[join("a"), join("b"), failed("a", 0), join("a")], SECOND);
    for second in 2..=60u32 {
        leader.saw("b", second.into(), second * SECOND);
        leader.tick(second * SECOND);
    }
    assert_eq!(leader.publish().unwrap().phase, Phase::Gathering);
    tell(&mut leader, &[join("b")], 61 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.phase, ids(&state.nodes).as_str(), state.restarts), (Phase::Complete, "ab", 1));
}

#[test]
fn rst_09_restarts_are_the_jobs_and_one_failure_counts_once() {
    let mut leader = leader(Rules { max_restarts: 1, ..rules(2, 2) });
    tell(&mut leader, &[join("a"), join("b"), failed("b", 0), failed("a", 0)], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.round, state.restarts, state.why.text()), (1, 1, "b failed"));
    tell(&mut leader, &[join("b"), join("a"), failed("a", 0), failed("a", 1)], SECOND);
    let ending = Ending::Closed { reason: "a failed".into(), exit: THREE };
    assert_eq!(leader.publish().unwrap().phase, Phase::Ended(ending));
}

#[test]
fn rst_04_membership_changes_use_up_no_restarts() {
    let mut leader = leader(Rules { max_restarts: 0, ..rules(1, 2) });
    tell(&mut leader, &[join("a"), join("b")], SECOND);
    for change in 0..10 {
        tell(&mut leader, &[leave("b"), join("a"), join("b"), join("a")], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((state.restarts, state.round, ids(&state.nodes).as_str()), (0, 2 * (change + 1), "ab"));
    }
}

#[test]
fn bar_08_a_node_that_is_done_takes_part_in_the_next_round() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a"), join("b"), done("a", 0), failed("b", 0)], SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((&state.phase, ids(&state.nodes).as_str(), state.done.len()), (&Phase::Gathering, "ab", 0));
    tell(&mut leader, &[join("b"), join("a"), done("a", 0), done("a", 1), done("b", 1)], SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Ended(Ending::Succeeded));
}

#[test]
fn bar_02_who_is_done_may_go() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a"), join("b"), done("b", 0), leave("b")], SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Complete);
    tell(&mut leader, &[done("a", 0)], SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Ended(Ending::Succeeded));
}

#[test]
fn bar_08_who_has_gone_is_not_expected_back() {
    for fixed in [false, true] {
        let mut leader = leader(Rules { fixed, ..rules(2, 2) });
        tell(&mut leader, &[join("a"), join("b"), done("b", 0), leave("b"), failed("a", 0)], SECOND);
        let state = leader.publish().unwrap();
        if let Phase::Ended(Ending::Closed { reason, exit: THREE }) = &state.phase {
            assert_eq!(reason, "a failed; node b has succeeded and left, so there is no restart");
            assert!(fixed);
            continue;
        }
        assert_eq!((&state.phase, ids(&state.nodes).as_str()), (&Phase::Gathering, "a"));
        tell(&mut leader, &[join("a"), join("c")], SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
    }
}

#[test]
fn dyn_10_one_that_is_heard_anew_has_its_full_time() {
    let mut leader = leader(rules(2, 2));
    tell(&mut leader, &[join("a"), join("b")], SECOND);
    leader.give_back(Duration::ZERO, 60 * SECOND);
    leader.tick(74 * SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Complete);
    leader.tick(75 * SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Gathering);
}

#[test]
fn job_12_a_node_whose_workers_fail_too_often_is_left_out_where_there_are_enough_others() {
    for (min_nodes, is_left_out) in [(1, true), (2, false)] {
        let rules = Rules { max_host_failures: 2, max_restarts: 1, ..rules(min_nodes, 2) };
        let mut leader = leader(rules);
        tell(&mut leader, &[join("a"), join("b"), failed("b", 0), join("a"), join("b")], SECOND);
        assert_eq!(leader.state().restarts, 1);
        tell(&mut leader, &[failed("b", 1), join("b"), join("a")], SECOND);
        let state = leader.publish().unwrap();
        if !is_left_out {
            assert!(matches!(state.phase, Phase::Ended(Ending::Closed { exit: THREE, .. })));
            continue;
        }
        assert_eq!((state.restarts, &state.phase, state.nodes.len()), (1, &Phase::Complete, 1));
        assert!(state.left_out["b"].contains("failed 2 times: b failed"), "{state:?}");
        assert!(state.why.text().contains("left out"), "{state:?}");
    }
}

#[test]
fn job_04_how_a_request_has_ended_is_told_before_the_next_one_begins() {
    let said = |id: &str, word| Message::Request { id: id.into(), round: 0, word };
    let ask = |ask, kind| {
        said("a", Word::Ask(Ask { ask, kind, reason: Reason::Host, within_ms: 9000, leaves: None }))
    };
    let answers = |number| said("a", Word::Answers { number, ranks: vec![(Answer::Succeeded, Some(5))] });
    let holds = |number| said("a", Word::Holds { number, step: 5 });
    let rules = Rules { save_before_change: SECOND, ..rules(1, 2) };
    let mut leader = Leader::new(rules, "a", State::new("a"), Duration::ZERO);
    tell(&mut leader, &[join("a")], Duration::ZERO);
    leader.tick(9 * SECOND);
    assert_eq!(leader.publish().unwrap().phase, Phase::Complete);
    // In one go: the end of one, a pause that is asked for, and somebody who comes.
    let batch = [ask(1, RequestKind::Save), holds(1), ask(2, RequestKind::Pause), answers(1), join("b")];
    tell(&mut leader, &batch, 9 * SECOND);
    let seen = |state: State| state.request.map(|request| (request.number, request.kind, request.progress));
    let over = Progress::Over { at_step: Some(5) };
    assert_eq!(seen(leader.publish().unwrap()), Some((1, RequestKind::Save, over)));
    leader.next_request(9 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!(state.spares.len(), 1);
    assert_eq!(seen(state), Some((2, RequestKind::Save, Progress::Held)), "before the group changes");
    tell(&mut leader, &[holds(2), answers(2)], 9 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!((state.round, state.why.text()), (1, "node b has come"));
}

#[test]
fn job_14_a_node_that_beats_more_rarely_than_the_leader_is_not_missed_for_it() {
    let mut leader = leader(rules(1, 3));
    let rare = Node { dead_after_ms: 60_000, ..Node::named("c") };
    let joined = [join("a"), join("b"), Message::Join(rare)];
    tell(&mut leader, &joined, Duration::ZERO);
    leader.publish();
    assert_eq!(leader.deadline(), Some(15 * SECOND));
    leader.tick(15 * SECOND);
    let state = leader.publish().unwrap();
    assert_eq!(state.why, Why::Membership("node b has vanished: no sign of it for 15s".into()));
    leader.tick(60 * SECOND);
    assert!(!leader.state().nodes.iter().any(|node| node.id == "c"));
}

#[test]
fn job_12_a_node_that_cannot_take_part_is_left_out_where_there_are_enough_others() {
    let unfit = |id: &str| Message::Unfit { id: id.into(), reason: format!("{id} cannot start x") };
    for (min_nodes, ends) in [(1, false), (2, true)] {
        let mut leader = leader(rules(min_nodes, 2));
        tell(&mut leader, &[join("a"), join("b"), unfit("b")], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!(matches!(state.phase, Phase::Ended(_)), ends);
        assert!(ends || state.why == Why::Membership("b cannot start x".into()), "{state:?}");
        assert_eq!(state.restarts, 0);
    }
    // The last one.
    let mut leader = leader(rules(1, 1));
    tell(&mut leader, &[join("a"), unfit("a")], SECOND);
    assert!(matches!(leader.publish().unwrap().phase, Phase::Ended(_)));
}

#[test]
fn stat_06_a_node_rank_for_two_ends_the_job_before_it_begins() {
    let ranked = |id: &str, order| Message::Join(Node { order: Some(order), ..Node::named(id) });
    let fixed = || leader(Rules { fixed: true, ..rules(2, 2) });
    let mut twice = fixed();
    tell(&mut twice, &[ranked("a", 1), ranked("b", 1)], SECOND);
    let Phase::Ended(Ending::Closed { reason, .. }) = twice.publish().unwrap().phase else { panic!() };
    assert_eq!(reason, "node rank 1 was given to node a and to node b");
    let mut ordered = fixed();
    tell(&mut ordered, &[ranked("a", 1), ranked("b", 0), ranked("c", 1)], SECOND);
    let state = ordered.publish().unwrap();
    assert_eq!((ids(&state.nodes).as_str(), state.refused[0].0.as_str()), ("ba", "c"));
}

#[test]
fn rank_01_nodes_stand_by_their_wish_then_by_age() {
    let mut leader = leader(rules(3, 3));
    let wish = Message::Join(Node { order: Some(7), ..Node::named("c") });
    tell(&mut leader, &[join("a"), join("b"), wish.clone()], SECOND);
    assert_eq!(ids(&leader.publish().unwrap().nodes), "cab");
    // Whoever is back first.
    tell(&mut leader, &[failed("a", 0), join("b"), wish, join("a")], SECOND);
    assert_eq!(ids(&leader.publish().unwrap().nodes), "cab");
}

proptest! {
    /// Whatever is said, in whatever order: rounds have min to max nodes, each once, and a new leader that reads
    /// the same messages comes to the same state.
    #[test]
    fn dyn_16_any_order_of_messages(steps in proptest::collection::vec((0..5usize, 0..5usize, 0..4u64), 0..60)) {
        let names = ["a", "b", "c", "d", "e"];
        let rules = rules(2, 3);
        let mut leader = Leader::new(rules.clone(), "a", State::new("a"), Duration::ZERO);
        let mut last = State::new("a");
        let mut since = Vec::new();
        for (what, who, round) in steps {
            let id = names[who];
            let message = match what {
                0 | 1 => join(id),
                2 => leave(id),
                3 => failed(id, round),
                _ => done(id, round),
            };
            leader.receive(message.clone(), SECOND);
            since.push(message);
            if let Some(state) = leader.publish() {
                let mut again = Leader::new(rules.clone(), "a", last.clone(), SECOND);
                since.drain(..).for_each(|message| again.receive(message, SECOND));
                prop_assert_eq!(&again.state, &state);
                if state.phase == Phase::Complete {
                    prop_assert!((2..=3).contains(&state.nodes.len()));
                }
                let mut all: Vec<_> = state.nodes.iter().chain(&state.spares).map(|node| &node.id).collect();
                all.sort();
                all.dedup();
                prop_assert_eq!(all.len(), state.nodes.len() + state.spares.len());
                last = state;
            }
        }
    }
}

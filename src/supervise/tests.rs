//! States, events and actions, one after the other: no process, no clock.

use super::*;
use Action::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const FAILED: Event = Event::Exited { success: false, code: Some(3), by_stop: false };
const OK: Event = Event::Exited { success: true, code: Some(0), by_stop: false };
/// Killed by what would stop the run.
const STOPPED: Event = Event::Exited { success: false, code: None, by_stop: true };

fn policy() -> Policy {
    Policy {
        max_restarts: 1,
        restart_backoff: None,
        min_uptime: Duration::ZERO,
        no_restart_exit_codes: BTreeSet::new(),
        attempts_without_progress: 0,
        stop: StopSignals { pre_stop: None, stop: libc::SIGTERM },
        shutdown_timeout: 5 * SECOND,
        save_before_stop: None,
        give_up_after: 10 * SECOND,
        rendezvous: None,
    }
}

fn started(policy: Policy) -> Supervisor {
    let (mut group, actions) = Supervisor::new(policy);
    assert_eq!(actions, [Start { attempt: 0 }]);
    start(&mut group);
    group
}

fn start(group: &mut Supervisor) {
    for _ in 0..2 {
        assert_eq!(group.step(Event::Born, SECOND), []);
    }
    assert_eq!(group.step(Event::Started, SECOND), []);
}

/// Fails with the group at this place; what follows.
fn fail_at(group: &mut Supervisor, event: Event, reached: Option<u64>) -> Vec<Action> {
    assert!(group.wants_progress() || group.policy.attempts_without_progress == 0);
    group.note_progress(reached);
    assert_eq!(group.step(event, 9 * SECOND), [Signal(libc::SIGTERM)]);
    let ends = if event == FAILED { 1 } else { 2 };
    let mut actions = vec![];
    (0..ends).for_each(|_| actions = group.step(FAILED, 9 * SECOND));
    actions
}

#[test]
fn rst_14_attempts_without_progress_end_the_run() {
    let policy = Policy { max_restarts: 99, attempts_without_progress: 2, ..policy() };
    let mut group = started(policy);
    for (reached, goes_on) in [
        (None, true),
        (Some(10), true), // further than nothing
        (Some(10), true), // 1
        (None, true),     // unknown is not none
        (Some(11), true), // further: the count begins anew
        (Some(3), true),  // 1
        (Some(11), false),
    ] {
        let actions = fail_at(&mut group, FAILED, reached);
        if goes_on {
            let attempt = group.attempt();
            assert_eq!(actions, [EndAttempt { succeeded: false }, Start { attempt }], "{reached:?}");
            start(&mut group);
        } else {
            assert_eq!(actions, [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
        }
    }
    assert_eq!(group.no_restart(), Some(NoRestart::NoProgress(2)));
}

#[test]
fn rst_12_a_restart_that_is_asked_for_counts() {
    let mut group = started(Policy { max_restarts: 1, ..policy() });
    let actions = fail_at(&mut group, Event::RestartWanted, None);
    assert_eq!(actions, [EndAttempt { succeeded: false }, Start { attempt: 1 }]);
    start(&mut group);
    let actions = fail_at(&mut group, Event::RestartWanted, None);
    assert_eq!(actions, [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
}

#[test]
fn mon_01_success_needs_every_worker() {
    let mut group = started(policy());
    assert_eq!(group.step(OK, SECOND), []);
    assert_eq!(group.deadline(), None);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: true }, Finish(End::Succeeded)]);
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), []);
}

#[test]
fn rst_01_restarts_until_none_is_left() {
    let mut group = started(policy());
    assert_eq!(group.step(FAILED, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }, Start { attempt: 1 }]);
    start(&mut group);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
}

#[test]
fn rst_10_back_off_doubles_and_a_crash_loop_ends() {
    let mut group =
        started(Policy { max_restarts: 9, restart_backoff: Some((SECOND, 3 * SECOND)), ..policy() });
    for wait in [1, 2, 3, 3] {
        group.step(FAILED, 10 * SECOND);
        assert_eq!(group.step(OK, 10 * SECOND), [EndAttempt { succeeded: false }]);
        assert_eq!(group.deadline(), Some((10 + wait) * SECOND));
        let attempt = group.attempt() + 1;
        assert_eq!(group.step(Event::Deadline, 99 * SECOND), [Start { attempt }]);
        start(&mut group);
    }
    let mut group = started(Policy { min_uptime: 2 * SECOND, ..policy() });
    group.step(FAILED, 2 * SECOND);
    assert_eq!(group.step(OK, 3 * SECOND), [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
    assert_eq!(group.no_restart(), Some(NoRestart::CrashLoop));
}

#[test]
fn fn_24_a_group_whose_server_is_gone_is_a_failed_one() {
    let mut group = started(policy());
    assert_eq!(group.step(Event::ServerGone, SECOND), [Signal(libc::SIGTERM)]);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }, Start { attempt: 1 }]);
    // Before a worker is there.
    assert_eq!(
        group.step(Event::ServerGone, SECOND),
        [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]
    );
}

#[test]
fn time_01_a_stuck_worker_is_a_failed_one() {
    let mut group = started(policy());
    assert_eq!(group.step(Event::Stuck { restart: true }, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.step(Event::Stuck { restart: true }, SECOND), []);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }, Start { attempt: 1 }]);
}

#[test]
fn time_13_no_restart_beside_one_that_the_kernel_holds() {
    let mut group = started(Policy { max_restarts: 9, ..policy() });
    assert_eq!(group.step(Event::Stuck { restart: false }, SECOND), [Signal(libc::SIGTERM)]);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
    assert_eq!(group.no_restart(), Some(NoRestart::Uninterruptible));
}

#[test]
fn an_exit_code_may_forbid_the_restart() {
    let mut group = started(Policy { no_restart_exit_codes: [3].into(), ..policy() });
    group.step(FAILED, 9 * SECOND);
    assert_eq!(group.step(OK, 9 * SECOND), [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]);
    assert_eq!(group.no_restart(), Some(NoRestart::ExitCode(3)));
}

#[test]
fn kill_02_one_deadline_then_sigkill_then_given_up() {
    let mut group = started(policy());
    assert_eq!(group.step(Event::Stop { signal: 0 }, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.deadline(), Some(6 * SECOND));
    assert_eq!(group.step(Event::Deadline, 6 * SECOND), [Kill]);
    assert_eq!(group.deadline(), Some(16 * SECOND));
    let last = group.step(Event::Deadline, 16 * SECOND);
    assert_eq!(last, [GiveUp, EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
}

#[test]
fn time_21_a_stop_and_the_barrier_have_the_time_back_in_which_all_stood_still() {
    let mut group = started(policy());
    group.give_back(SECOND);
    assert_eq!(group.deadline(), None);
    group.step(Event::Stop { signal: 0 }, SECOND);
    group.give_back(7 * SECOND);
    assert_eq!(group.deadline(), Some(13 * SECOND));
    assert_eq!(group.step(Event::Deadline, 13 * SECOND), [Kill]);
    group.give_back(2 * SECOND);
    assert_eq!(group.deadline(), Some(25 * SECOND));
    let mut waiting = joined(of_hosts(), 0, 0);
    waiting.step(OK, SECOND);
    waiting.step(OK, SECOND);
    waiting.give_back(9 * SECOND);
    assert_eq!(waiting.deadline(), Some(20 * SECOND));
    // A back-off is no limit.
    let mut group = started(Policy { restart_backoff: Some((SECOND, SECOND)), ..policy() });
    group.step(FAILED, SECOND);
    group.step(FAILED, SECOND);
    group.give_back(9 * SECOND);
    assert_eq!(group.deadline(), Some(2 * SECOND));
}

#[test]
fn kill_04_a_time_out_of_zero_kills_at_once() {
    let mut group = started(Policy { shutdown_timeout: Duration::ZERO, ..policy() });
    assert_eq!(group.step(Event::Stop { signal: 2 }, SECOND), [Signal(2), Kill]);
}

#[test]
fn kill_14_an_early_signal_comes_first() {
    let stop = StopSignals { pre_stop: Some((libc::SIGUSR1, SECOND)), stop: libc::SIGINT };
    let mut group = started(Policy { stop, ..policy() });
    assert_eq!(group.step(FAILED, SECOND), [Signal(libc::SIGUSR1)]);
    assert_eq!(group.step(Event::Deadline, 2 * SECOND), [Signal(libc::SIGINT)]);
    assert_eq!(group.deadline(), Some(7 * SECOND));
}

#[test]
fn time_workers_are_asked_to_save_before_a_stop() {
    let saving = || started(Policy { save_before_stop: Some(9 * SECOND), ..policy() });
    let ask = [Ask { to: RequestKind::Save, reason: Reason::Preemption, until: 10 * SECOND }];
    let mut group = saving();
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), ask);
    assert_eq!(group.deadline(), Some(10 * SECOND));
    assert_eq!(group.step(Event::Answered, 2 * SECOND), [Signal(15)]);
    assert_eq!(group.deadline(), Some(7 * SECOND));
    let mut group = saving();
    group.step(Event::Stop { signal: 2 }, SECOND);
    assert_eq!(group.step(FAILED, 2 * SECOND), [], "the others may still save");
    assert_eq!(group.step(Event::Deadline, 10 * SECOND), [Signal(2)]);
    let mut group = saving();
    group.step(Event::Stop { signal: 2 }, SECOND);
    assert_eq!(group.step(Event::Hurry, SECOND), [Kill]);
    // A failure asks nobody.
    assert_eq!(saving().step(FAILED, SECOND), [Signal(libc::SIGTERM)]);
}

#[test]
fn time_workers_that_end_at_a_gentle_stop_are_interrupted() {
    let mut group = started(policy());
    let until = 5 * SECOND;
    assert_eq!(
        group.step(Event::StopGently { until }, SECOND),
        [Ask { to: RequestKind::Stop, reason: Reason::Host, until }]
    );
    group.step(OK, SECOND);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
    let mut group = started(policy());
    group.step(Event::StopGently { until }, SECOND);
    assert_eq!(group.step(Event::Stop { signal: 2 }, 2 * SECOND), [Signal(2)], "that one waits for nobody");
}

#[test]
fn sig_04_a_stop_during_a_restart_or_its_wait_ends_the_run() {
    let mut group = started(policy());
    group.step(FAILED, SECOND);
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), []);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);

    let mut group = started(Policy { restart_backoff: Some((SECOND, SECOND)), ..policy() });
    group.step(FAILED, SECOND);
    group.step(OK, SECOND);
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), [Finish(End::Interrupted)]);
}

#[test]
fn sig_04_a_stop_between_two_spawns_stops_those_that_live() {
    let (mut group, _) = Supervisor::new(policy());
    group.step(Event::Born, SECOND);
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), [Signal(15)]);
    assert!(!group.is_starting());
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
    let (mut group, _) = Supervisor::new(policy());
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND).last(), Some(&Finish(End::Interrupted)));
}

#[test]
fn sig_06_a_second_interrupt_brings_the_kill_forward_only() {
    let mut group = started(policy());
    group.step(Event::Stop { signal: 2 }, SECOND);
    assert_eq!(group.step(Event::Hurry, SECOND), [Kill]);
    assert_eq!(group.step(Event::Hurry, SECOND), []);
    assert_eq!(group.step(Event::Stop { signal: 2 }, SECOND), []);
    assert_eq!(group.deadline(), Some(11 * SECOND));
}

#[test]
fn sig_all_a_stop_for_all_that_workers_feel_first_is_a_stop() {
    let end = [EndAttempt { succeeded: false }, Finish(End::Interrupted)];
    let stop = Event::Stop { signal: 15 };
    // All workers before their agent, whatever it is told to do before a stop.
    for save in [None, Some(9 * SECOND)] {
        let mut group = started(Policy { save_before_stop: save, max_restarts: 9, ..policy() });
        assert_eq!(group.step(STOPPED, SECOND), []);
        assert!(group.is_in_doubt() && !group.is_running());
        assert_eq!(group.deadline(), Some(SECOND + MOMENT));
        assert_eq!(group.step(FAILED, SECOND), [], "its peer missed it");
        assert_eq!(group.step(stop, SECOND), end);
    }
    // Some of them.
    let mut group = started(policy());
    group.step(STOPPED, SECOND);
    assert_eq!(group.step(stop, SECOND), [Signal(15)]);
    assert_eq!(group.step(STOPPED, SECOND), end);
    // One of them missed a peer before it felt the signal itself.
    let mut group = started(Policy { max_restarts: 9, ..policy() });
    assert_eq!(group.step(FAILED, SECOND), [Signal(15)]);
    assert_eq!(group.step(STOPPED, SECOND), []);
    assert_eq!(group.step(stop, SECOND), end);
    // Other hosts are stopped too: what they say first counts for no more.
    for first in [Event::JobFailed, Event::RoundOver, Event::AgentFailed] {
        let mut group = joined(of_hosts(), 0, 0);
        assert_eq!(group.step(STOPPED, SECOND), []);
        assert_eq!(group.step(first, SECOND), []);
        assert_eq!(group.step(STOPPED, SECOND), []);
        assert_eq!(group.step(stop, SECOND), end, "{first:?}");
    }
}

#[test]
fn sig_all_a_job_that_is_closed_elsewhere_may_be_stopped_here_too() {
    let (stop, end) =
        (Event::Stop { signal: 15 }, [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
    let saving = || Policy { save_before_stop: Some(9 * SECOND), ..of_hosts() };
    let ask = |reason| [Ask { to: RequestKind::Save, reason, until: 10 * SECOND }];
    let mut group = joined(saving(), 0, 0);
    assert_eq!(group.step(Event::JobClosed, SECOND), []);
    assert_eq!(group.step(stop, SECOND), ask(Reason::Preemption), "as if it had been the first");
    assert_eq!(group.step(Event::Answered, SECOND), [Signal(15)]);
    group.step(OK, SECOND);
    assert_eq!(group.step(OK, SECOND), end);
    // Nobody is there.
    let (mut group, _) = Supervisor::new(of_hosts());
    assert_eq!(group.step(Event::JobClosed, SECOND), []);
    assert_eq!(group.step(stop, SECOND), [Finish(End::Interrupted)]);
    let (mut group, _) = Supervisor::new(of_hosts());
    group.step(Event::JobClosed, SECOND);
    assert_eq!(group.step(Event::Deadline, SECOND + MOMENT), [Finish(End::WorkerFailure)]);
    // A failure is not held back.
    assert_eq!(joined(of_hosts(), 0, 0).step(Event::JobFailed, SECOND), [Signal(15)]);
    let mut group = joined(of_hosts(), 0, 0);
    group.step(Event::JobClosed, SECOND);
    assert_eq!(group.step(Event::Deadline, SECOND + MOMENT), [Signal(15)]);
}

#[test]
fn sig_all_a_signal_to_workers_alone_is_a_failure_a_moment_later() {
    let late = SECOND + MOMENT;
    let mut group = started(policy());
    group.step(STOPPED, SECOND);
    assert_eq!(group.step(Event::Deadline, late), [Signal(15)]);
    assert!(!group.is_in_doubt());
    assert_eq!(group.step(OK, late), [EndAttempt { succeeded: false }, Start { attempt: 1 }]);
    // All of them.
    start(&mut group);
    assert_eq!([STOPPED, STOPPED].map(|event| group.step(event, SECOND)), [vec![], vec![]]);
    assert_eq!(
        group.step(Event::Deadline, late),
        [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)]
    );
    // With others.
    let mut group = joined(of_hosts(), 0, 0);
    for event in [STOPPED, OK, Event::RoundOver] {
        assert_eq!(group.step(event, SECOND), []);
    }
    let announced = [Announce { last: false }, EndAttempt { succeeded: false }, Join];
    assert_eq!(group.step(Event::Deadline, late), announced);
    // What is worse is not held back, and no other attempt begins in between.
    let mut group = started(policy());
    group.step(STOPPED, SECOND);
    assert_eq!(group.step(Event::Lost, SECOND), [EndAttempt { succeeded: false }, Finish(End::AgentError)]);
    // Once the group is stopped by a signal that is for all, there is no doubt.
    let mut group = started(policy());
    group.step(Event::Stop { signal: 15 }, SECOND);
    group.step(STOPPED, SECOND);
    assert!(!group.is_in_doubt());
}

#[test]
fn sig_warning_a_signal_may_have_workers_save_before_the_stop() {
    let until = 9 * SECOND;
    let save = Event::SaveAndStop { until };
    let mut group = started(policy());
    assert_eq!(group.step(save, SECOND), [Ask { to: RequestKind::Save, reason: Reason::Preemption, until }]);
    assert_eq!(group.step(Event::Answered, SECOND), [Signal(15)]);
    let (mut group, _) = Supervisor::new(policy());
    assert_eq!(group.step(save, SECOND).last(), Some(&Finish(End::Interrupted)), "nobody has come to run");
    let mut group = started(policy());
    group.step(FAILED, SECOND);
    group.step(save, SECOND);
    assert_eq!(group.step(OK, SECOND).last(), Some(&Finish(End::Interrupted)));
    let mut group = started(Policy { restart_backoff: Some((SECOND, SECOND)), ..policy() });
    group.step(FAILED, SECOND);
    group.step(OK, SECOND);
    assert_eq!(group.step(save, SECOND), [Finish(End::Interrupted)]);
}

#[test]
fn rst_05_a_start_error_is_never_restarted() {
    let (mut group, _) = Supervisor::new(policy());
    group.step(Event::Born, SECOND);
    let may_pass = true;
    assert_eq!(group.step(Event::StartFailed { may_pass }, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::StartError)]);
}

/// The second attempt begins.
fn restarted(policy: Policy) -> Supervisor {
    let mut group = started(policy);
    group.step(FAILED, 9 * SECOND);
    group.step(OK, 9 * SECOND);
    assert!(group.is_starting());
    group
}

#[test]
fn rst_06_a_start_error_in_a_later_attempt_is_the_agents() {
    let mut group = restarted(Policy { max_restarts: 9, ..policy() });
    let may_pass = false;
    assert_eq!(group.step(Event::StartFailed { may_pass }, SECOND).last(), Some(&Finish(End::AgentError)));
}

#[test]
fn rst_06_a_start_that_may_do_better_later_uses_restarts_up() {
    let failed = Event::StartFailed { may_pass: true };
    // min_uptime is for workers that ran.
    let mut group = restarted(Policy { max_restarts: 4, min_uptime: SECOND, ..policy() });
    for wait in [500, 1000, 2000] {
        assert_eq!(group.step(Event::Born, SECOND), []);
        assert_eq!(group.step(failed, SECOND), [Signal(libc::SIGTERM)]);
        assert!(group.goes_on());
        assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }]);
        assert_eq!(group.deadline(), Some(SECOND + Duration::from_millis(wait)));
        let attempt = group.attempt() + 1;
        assert_eq!(group.step(Event::Deadline, SECOND), [Start { attempt }]);
    }
    assert_eq!(group.restarts(), 4);
    let end = [EndAttempt { succeeded: false }, Finish(End::AgentError)];
    assert_eq!(group.step(failed, SECOND), end, "there is no restart left");
    // The spec's own back-off counts all restarts.
    let backoff = Some((SECOND, 3 * SECOND));
    let mut group = started(Policy { max_restarts: 9, restart_backoff: backoff, ..policy() });
    group.step(FAILED, SECOND);
    group.step(OK, SECOND);
    group.step(Event::Deadline, 2 * SECOND);
    assert_eq!(group.step(failed, 2 * SECOND), [EndAttempt { succeeded: false }]);
    assert_eq!(group.deadline(), Some(4 * SECOND));
    // A stop ends the wait.
    assert_eq!(group.step(Event::Stop { signal: 15 }, 2 * SECOND), [Finish(End::Interrupted)]);
}

#[test]
fn rst_06_the_next_failure_of_a_worker_waits_as_usual() {
    let mut group = restarted(Policy { max_restarts: 9, ..policy() });
    group.step(Event::StartFailed { may_pass: true }, SECOND);
    group.step(Event::Deadline, 2 * SECOND);
    start(&mut group);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Start { attempt: 3 }]);
}

#[test]
fn rst_06_other_hosts_are_told_of_a_start_that_may_do_better_later() {
    let failed = Event::StartFailed { may_pass: true };
    let again = |restarts: u32| {
        let mut group = joined(of_hosts(), 0, 0);
        group.step(FAILED, SECOND);
        group.step(OK, SECOND);
        group.step(Event::Joined { round: 1, restarts }, SECOND);
        group
    };
    let mut group = again(0);
    let actions = [Announce { last: false }, EndAttempt { succeeded: false }];
    assert_eq!(group.step(failed, SECOND), actions);
    assert_eq!(group.deadline(), Some(SECOND + Duration::from_millis(500)));
    assert_eq!(group.step(Event::RoundOver, SECOND), []);
    assert_eq!(group.step(Event::Deadline, 2 * SECOND), [Join]);
    // It cannot join yet: it tries again, but not for ever.
    assert_eq!(group.step(failed, 2 * SECOND), [Finish(End::AgentError)]);
    // The restarts of the job are used up.
    assert_eq!(again(1).step(failed, SECOND).last(), Some(&Finish(End::AgentError)));
}

#[test]
fn mon_14_a_lost_worker_is_an_agent_error() {
    let mut group = started(policy());
    assert_eq!(group.step(Event::Lost, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::AgentError)]);
}

fn of_hosts() -> Policy {
    Policy { rendezvous: Some(10 * SECOND), ..policy() }
}

/// Two workers run, in this round.
fn joined(policy: Policy, round: u32, restarts: u32) -> Supervisor {
    let (mut group, actions) = Supervisor::new(policy);
    assert_eq!(actions, [Join]);
    assert_eq!(group.step(Event::Joined { round, restarts }, SECOND), [Start { attempt: round }]);
    for event in [Event::Born, Event::Born, Event::Started] {
        assert_eq!(group.step(event, SECOND), []);
    }
    group
}

#[test]
fn rst_08_a_failure_is_told_and_the_next_round_joined_when_all_are_gone() {
    let mut group = joined(of_hosts(), 0, 0);
    assert_eq!(group.step(FAILED, SECOND), [Signal(libc::SIGTERM), Announce { last: false }]);
    assert_eq!(group.step(Event::RoundOver, SECOND), []);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Join]);
    assert_eq!(group.restarts(), 1);
    assert_eq!(group.step(Event::Joined { round: 1, restarts: 1 }, SECOND), [Start { attempt: 1 }]);
    assert_eq!(group.job_restarts(), 1);
}

#[test]
fn rst_09_the_limit_is_for_the_restarts_of_the_job() {
    let mut group = joined(of_hosts(), 1, 1);
    assert_eq!(group.step(FAILED, SECOND), [Signal(libc::SIGTERM), Announce { last: true }]);
    let end = [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)];
    assert_eq!(group.step(OK, SECOND), end);
}

#[test]
fn rst_04_a_round_that_is_over_for_others_is_no_restart() {
    for round in 0..10 {
        let mut group = joined(Policy { max_restarts: 0, ..of_hosts() }, round, 0);
        assert_eq!(group.step(Event::RoundOver, SECOND), [Signal(libc::SIGTERM)]);
        assert_eq!(group.step(OK, SECOND), []);
        assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Join]);
        assert_eq!(group.restarts(), 0);
    }
    // Workers have been asked to save before, with those of the other hosts.
    let save = Policy { save_before_stop: Some(9 * SECOND), ..of_hosts() };
    assert_eq!(joined(save, 0, 0).step(Event::RoundOver, SECOND), [Signal(libc::SIGTERM)]);
}

#[test]
fn job_17_a_stop_of_another_host_is_a_stop_here() {
    let stopped = Event::JobStopped { signal: libc::SIGINT };
    let mut group = joined(of_hosts(), 0, 0);
    assert_eq!(group.step(stopped, SECOND), [Signal(libc::SIGINT)]);
    group.step(FAILED, SECOND);
    assert_eq!(group.step(FAILED, SECOND), [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
    // Where it follows a failure, or reaches workers first.
    for first in [FAILED, STOPPED] {
        let mut group = joined(Policy { max_restarts: 9, ..of_hosts() }, 0, 0);
        group.step(first, SECOND);
        group.step(stopped, SECOND);
        assert_eq!(group.step(OK, SECOND).last(), Some(&Finish(End::Interrupted)), "{first:?}");
    }
    let (mut group, _) = Supervisor::new(of_hosts());
    assert_eq!(group.step(stopped, SECOND), [Finish(End::Interrupted)]);
}

#[test]
fn job_a_host_whose_workers_have_ended_as_asked_leaves_with_the_others() {
    let until = 9 * SECOND;
    let asked = || {
        let mut group = joined(of_hosts(), 0, 0);
        let ask = Ask { to: RequestKind::Stop, reason: Reason::Host, until };
        assert_eq!(group.step(Event::StopGently { until }, SECOND), [ask]);
        assert_eq!(group.step(OK, SECOND), []);
        group
    };
    for event in [Event::Answered, Event::Deadline, Event::JobClosed, Event::Hurry, Event::AgentFailed] {
        let mut group = asked();
        assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }]);
        assert_eq!((group.deadline(), group.wait()), (Some(until), Some(Wait::Answers { until })));
        assert_eq!(group.step(event, SECOND), [Finish(End::Interrupted)], "{event:?}");
    }
    // A stop that waits for nobody.
    for event in [Event::Stop { signal: 15 }, Event::Hurry] {
        let mut group = asked();
        group.step(event, SECOND);
        let end = [EndAttempt { succeeded: false }, Finish(End::Interrupted)];
        assert_eq!(group.step(OK, SECOND), end, "{event:?}");
    }
    // Where workers are not all there, or not any more.
    let (mut group, _) = Supervisor::new(of_hosts());
    assert_eq!(group.step(Event::StopGently { until }, SECOND), [Finish(End::Interrupted)]);
    let (mut group, _) = Supervisor::new(of_hosts());
    group.step(Event::Joined { round: 0, restarts: 0 }, SECOND);
    group.step(Event::Born, SECOND);
    assert_eq!(group.step(Event::StopGently { until }, SECOND), []);
    let ask = Ask { to: RequestKind::Stop, reason: Reason::Host, until };
    assert_eq!(group.step(Event::Started, SECOND), [ask]);
    // All hosts have answered, but for this worker, which is stopped.
    let mut group = asked();
    assert_eq!(group.step(Event::Answered, SECOND), [Signal(15)]);
    assert_eq!(group.step(OK, SECOND), [EndAttempt { succeeded: false }, Finish(End::Interrupted)]);
}

#[test]
fn bar_01_who_has_succeeded_waits_for_the_others_and_no_longer_than_the_time_out() {
    let arrived = |policy| {
        let mut group = joined(policy, 0, 0);
        assert_eq!(group.step(OK, SECOND), []);
        let actions = group.step(OK, SECOND);
        (group, actions)
    };
    let arrive = [EndAttempt { succeeded: true }, Arrive];
    for (event, then) in [
        (Event::JobSucceeded, Finish(End::Succeeded)),
        (Event::Deadline, Finish(End::Succeeded)),
        (Event::AgentFailed, Finish(End::AgentError)),
        (Event::Stop { signal: 15 }, Finish(End::Interrupted)),
        (Event::JobFailed, Finish(End::WorkerFailure)),
        (Event::RoundOver, Join),
    ] {
        let (mut group, actions) = arrived(of_hosts());
        assert_eq!((actions, group.deadline()), (arrive.to_vec(), Some(11 * SECOND)));
        assert_eq!(group.step(event, 2 * SECOND), [then]);
    }
    let (_, actions) = arrived(Policy { rendezvous: Some(Duration::ZERO), ..policy() });
    assert_eq!(actions, [EndAttempt { succeeded: true }, Arrive, Finish(End::Succeeded)]);
}

#[test]
fn bar_04_a_failed_job_ends_without_a_barrier() {
    let mut group = joined(of_hosts(), 0, 0);
    assert_eq!(group.step(Event::JobFailed, SECOND), [Signal(libc::SIGTERM)]);
    assert_eq!(group.step(OK, SECOND), []);
    let end = [EndAttempt { succeeded: false }, Finish(End::WorkerFailure)];
    assert_eq!(group.step(OK, SECOND), end);
    let (mut waiting, _) = Supervisor::new(of_hosts());
    assert_eq!(waiting.step(Event::JobFailed, SECOND), [Finish(End::WorkerFailure)]);
    let (mut spare, _) = Supervisor::new(of_hosts());
    assert_eq!(spare.step(Event::NotNeeded, SECOND), [Finish(End::NotNeeded)]);
}

#[test]
fn sig_all_what_was_held_back_kills_nobody_who_has_ended() {
    let rendezvous = Some(9 * SECOND);
    let (mut group, _) = Supervisor::new(Policy { max_restarts: 0, rendezvous, ..policy() });
    group.step(Event::Joined { round: 7, restarts: 1 }, SECOND);
    group.step(Event::Born, SECOND);
    group.step(Event::Stuck { restart: true }, SECOND);
    for event in [Event::JobClosed, Event::Hurry, OK] {
        assert_eq!(group.step(event, SECOND), []);
    }
    let end = [EndAttempt { succeeded: false }, Finish(End::Interrupted)];
    assert_eq!(group.step(Event::Stop { signal: 15 }, SECOND), end);
}

proptest! {
    /// Whatever happens: the run is over only after the attempt was ended, an attempt starts only when
    /// no worker of the one before is alive, and there is always a deadline while it stops.
    #[test]
    fn no_order_of_events_leaves_the_machine_early(
        events in prop::collection::vec(0u8..20, 1..60), timeout in 0u64..3, restarts in 0u32..3,
        hosts in any::<bool>(),
    ) {
        let workers = 3;
        let (mut group, mut pending) = Supervisor::new(Policy {
            max_restarts: restarts, shutdown_timeout: Duration::from_secs(timeout),
            rendezvous: hosts.then_some(9 * SECOND), ..policy()
        });
        let (mut alive, mut over, mut now) = (0usize, false, SECOND);
        for event in events {
            now += SECOND;
            for action in std::mem::take(&mut pending) {
                prop_assert!(!over, "an action after the end: {action:?}");
                match action {
                    Start { .. } | Join | Arrive => prop_assert_eq!(alive, 0),
                    Announce { .. } => prop_assert!(hosts),
                    EndAttempt { succeeded } => prop_assert!(alive == 0 || !succeeded),
                    GiveUp => alive = 0,
                    Finish(_) => { prop_assert_eq!(alive, 0); over = true; }
                    Ask { .. } | Signal(_) | Kill => prop_assert!(alive > 0),
                }
            }
            if over { break; }
            let event = match event {
                0 | 1 if group.is_starting() && alive < workers => { alive += 1; Event::Born }
                0 | 1 if group.is_starting() => Event::Started,
                2 if alive > 0 => { alive -= 1; OK }
                3 if alive > 0 => { alive -= 1; FAILED }
                4 if alive > 0 => { alive -= 1; Event::Lost }
                5 => Event::Stop { signal: 15 },
                6 => Event::Hurry,
                7 if group.deadline().is_some() => Event::Deadline,
                8 if alive > 0 => Event::Stuck { restart: true },
                9 if alive > 0 => Event::Stuck { restart: false },
                10 | 11 if hosts && group.state == State::Joining => Event::Joined { round: 7, restarts: 1 },
                12 if hosts => Event::RoundOver,
                13 if hosts => Event::JobFailed,
                14 if hosts && group.state == State::Joining => Event::NotNeeded,
                15 if hosts => Event::JobSucceeded,
                16 if alive > 0 => { alive -= 1; STOPPED }
                17 => Event::SaveAndStop { until: now + SECOND },
                18 if hosts => Event::JobClosed,
                19 => Event::StartFailed { may_pass: true },
                _ => continue,
            };
            pending = group.step(event, now);
            if !over && alive > 0 && !group.is_starting() && !group.is_running() {
                prop_assert!(group.deadline().is_some() || pending.iter().any(|a| matches!(a, Finish(_))));
            }
        }
    }
}

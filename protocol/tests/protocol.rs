//! Every state that the protocol can reach, within bounds, and the same without each of its rules.
//! `docs/protocol.md` says what is explored and what breaks.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use buildpools_protocol::{Action, Bounds, Invariant, PROGRESS, Protocol, Rule, State, Zombies};
use stateright::{Checker, HasDiscoveries, Model, Path};

/// What `make check` explores, each to its end.
fn explored() -> Vec<(&'static str, Bounds)> {
    let bounds = Bounds::default();
    vec![
        ("one job, 2 retries, 3 faults, 1 wish", Bounds { retries: 2, faults: 3, ..bounds }),
        ("two jobs, 1 fault, 1 wish", Bounds { jobs: 2, ..bounds }),
        ("three jobs, no retry, 1 fault", Bounds { jobs: 3, retries: 0, wishes: 0, in_flight: 1, ..bounds }),
        ("three jobs, 2 slots", Bounds { jobs: 3, slots: 2, faults: 0, wishes: 0, ..bounds }),
        ("three jobs, 1 slot", Bounds { jobs: 3, faults: 0, wishes: 0, ..bounds }),
        ("Ephemeral, two jobs, 1 fault", Bounds { ephemeral: true, jobs: 2, wishes: 0, ..bounds }),
        ("Ephemeral, three jobs", Bounds { ephemeral: true, jobs: 3, faults: 0, wishes: 0, ..bounds }),
        ("no forced deletion, zombies count, 3 faults", Bounds { zombies: Zombies::Unforced, faults: 3, ..bounds }),
        ("an attacker on member 1, two jobs, 1 fault", Bounds { rogue: true, jobs: 2, wishes: 0, ..bounds }),
    ]
}

/// What takes some minutes: `cargo test … -- --ignored`.
fn explored_by_hand() -> Vec<(&'static str, Bounds)> {
    let bounds = Bounds::default();
    vec![
        ("two jobs, 2 faults", Bounds { jobs: 2, faults: 2, wishes: 0, ..bounds }),
        ("three jobs, 2 slots, 1 wish", Bounds { jobs: 3, slots: 2, faults: 0, in_flight: 1, ..bounds }),
        ("three jobs, 1 fault", Bounds { jobs: 3, wishes: 0, ..bounds }),
    ]
}

/// The rules that the invariants need: where it shows, and what breaks.
fn needed() -> Vec<(Rule, Bounds, &'static str)> {
    let one = Bounds { faults: 2, ..Bounds::default() };
    let two = Bounds { jobs: 2, in_flight: 1, ..Bounds::default() };
    let ephemeral = Bounds { ephemeral: true, ..two };
    let attacker = Bounds { rogue: true, faults: 0, wishes: 0, ..Bounds::default() };
    let unforced = Bounds { zombies: Zombies::Unforced, ..Bounds::default() };
    vec![
        (Rule::CompareAndSwap, one, "OneSolve"),
        (Rule::FencedByPodUid, attacker, "OwnJobsOnly"),
        (Rule::AttemptNeverDecreases, attacker, "AttemptMonotone"),
        (Rule::RunningBeforeSolve, one, "OneSolve"),
        (Rule::ReadAgainAfterAmbiguity, one, "OneSolve"),
        (Rule::NeverSolveRunningOfAnotherInstance, one, "OneSolve"),
        (Rule::AccountAfterRestart, one, PROGRESS),
        (Rule::AccountWaitsForTheEnd, one, "OneLiveAttempt"),
        (Rule::BrokenStreamIsAccounted, one, "OneLiveAttempt"),
        (Rule::StopWaitsForTheEnd, one, "OneLiveAttempt"),
        (Rule::RunnerEnforcesSlots, two, "Slots"),
        (Rule::OldBuildsTakeSlots, two, "Slots"),
        (Rule::OutcomeNeedsSameAttempt, one, "OutcomeOfThisAttempt"),
        (Rule::UnbindOnlyBeforeRunning, one, "OneLiveAttempt"),
        (Rule::GoneNeedsContainersEnded, one, "OneLiveAttempt"),
        (Rule::VerifyGoneByRead, one, "OneLiveAttempt"),
        (Rule::TakeBackFromGone, one, PROGRESS),
        (Rule::EphemeralOneJob, ephemeral, "EphemeralOnce"),
        (Rule::EphemeralMarkSurvives, ephemeral, "EphemeralOnce"),
        (Rule::CancelRespected, one, "NoStartAfterCancel"),
        (Rule::RetriesBounded, one, "RetryBound"),
        (Rule::OutOfServiceMeansOff, unforced, "OneLiveAttempt"),
    ]
}

/// Rules whose absence alone breaks nothing; `docs/protocol.md` says why they are there.
const SECOND_LINE: [Rule; 2] = [Rule::TerminalImmutable, Rule::LeavingTakesNothing];

fn trace(path: Path<State, Action>) -> String {
    let mut text = String::new();
    for (state, action) in path.into_vec() {
        let members = state.members.map(|m| (m.object, m.up, m.reachable));
        for job in state.jobs.iter().filter(|job| job.phase != buildpools_protocol::Phase::Absent) {
            let _ = writeln!(text, "    {job:?}");
        }
        let _ = writeln!(text, "    {members:?} {:?}", state.broken);
        if let Some(action) = action {
            let _ = writeln!(text, "{action:?}");
        }
    }
    text
}

/// Explores everything; what breaks is told with a short way there.
fn explore(name: &str, protocol: Protocol) {
    let began = Instant::now();
    let checker = protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{name}: {states} states, {steps} transitions, depth {depth}, {:.1?}", began.elapsed());
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        panic!("{name}: {property} is broken:\n{}", trace(path));
    }
}

/// The shortest way to where this is broken, if there is one. The first that Stateright tells is not the shortest.
fn breaks(rules: impl Fn() -> Protocol, property: &'static str) -> Option<Path<State, Action>> {
    let way = |longest: Option<usize>| {
        let until = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let checker = rules().checker().finish_when(until);
        let checker = match longest {
            Some(depth) => checker.target_max_depth(depth),
            None => checker,
        };
        checker.spawn_bfs().join().discovery(property)
    };
    let some = way(None)?;
    (1..).find_map(|depth| way(Some(depth)).or_else(|| (depth > steps(&some)).then(|| some.clone())))
}

fn steps(path: &Path<State, Action>) -> usize {
    path.clone().into_actions().len()
}

#[test]
fn every_invariant_holds_in_every_state() {
    for (name, bounds) in explored() {
        explore(name, Protocol::new(bounds));
    }
}

#[test]
#[ignore = "takes some minutes"]
fn every_invariant_holds_deeper() {
    for (name, bounds) in explored_by_hand() {
        explore(name, Protocol::new(bounds));
    }
}

#[test]
fn without_any_rule_something_breaks() {
    let show = std::env::var_os("TRACE").is_some();
    for (rule, bounds, property) in needed() {
        let Some(path) = breaks(|| Protocol::new(bounds).without(rule), property) else {
            panic!("without {rule:?}, {property} still holds: the rule is not needed, or the model is too weak");
        };
        println!("without {rule:?}: {property} breaks after {} steps", steps(&path));
        if show {
            println!("{}", trace(path));
        }
    }
    let named: HashSet<_> =
        needed().into_iter().map(|(rule, ..)| rule as u8).chain(SECOND_LINE.map(|r| r as u8)).collect();
    assert_eq!(named.len(), Rule::ALL.len(), "a rule is not tested");
}

/// A terminal status is shielded three times: by the compare-and-swap, by the fence (it is assigned to nobody), and by
/// the schema. It takes two of them to be gone.
#[test]
fn what_has_ended_is_shielded_more_than_once() {
    let honest = Bounds { faults: 0, wishes: 0, ..Bounds::default() };
    let attacker = Bounds { rogue: true, ..honest };
    let terminal = "TerminalIsFinal";
    for (bounds, first, broken) in
        [(honest, Rule::CompareAndSwap, terminal), (attacker, Rule::FencedByPodUid, terminal)]
    {
        explore("without TerminalImmutable", Protocol::new(bounds).without(Rule::TerminalImmutable));
        assert!(breaks(|| Protocol::new(bounds).without(first), broken).is_none(), "{first:?}");
        let neither = || Protocol::new(bounds).without(first).without(Rule::TerminalImmutable);
        assert!(breaks(neither, broken).is_some(), "{first:?}");
    }
}

/// It gives the pod a quick end and the job a quicker start elsewhere; nothing else depends on it.
#[test]
fn a_leaving_runner_could_take_jobs_without_harm_to_them() {
    let bounds = Bounds { jobs: 2, in_flight: 1, wishes: 0, ..Bounds::default() };
    explore("without LeavingTakesNothing", Protocol::new(bounds).without(Rule::LeavingTakesNothing));
}

/// The documented limit: whoever deletes a pod by force, or calls a node that still runs out of service, may see two
/// attempts of a job run for a while. Only one of them can write its outcome.
#[test]
fn a_zombie_is_the_only_second_attempt() {
    let bounds = Bounds { zombies: Zombies::Counted, ..Bounds::default() };
    let path = breaks(|| Protocol::new(bounds), "OneLiveAttempt").unwrap();
    let forced = |action: &Action| matches!(action, Action::ForceDelete(_));
    assert!(path.clone().into_actions().iter().any(forced), "{}", trace(path));
}

/// What never happens in the model shows nothing.
#[test]
fn all_that_can_happen_does() {
    let name = |action: &Action| match action {
        Action::Decide(_, write, _) => format!("{write:?}"),
        Action::Runner(step, ..) => format!("{step:?}"),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
    };
    let mut happened = BTreeSet::new();
    for bounds in [
        Bounds { faults: 2, ..Bounds::default() },
        Bounds { ephemeral: true, jobs: 1, ..Bounds::default() },
        Bounds { rogue: true, faults: 0, ..Bounds::default() },
        Bounds { jobs: 2, faults: 0, wishes: 0, ..Bounds::default() },
    ] {
        let protocol = Protocol::new(bounds);
        let (mut seen, mut open) = (HashSet::new(), vec![protocol.start()]);
        while let Some(state) = open.pop() {
            let mut actions = Vec::new();
            protocol.possible(&state, &mut actions);
            for action in actions {
                happened.insert(name(&action));
                let next = protocol.after(&state, action);
                let _ = next.broken.map(|broken: Invariant| panic!("{broken:?}"));
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    let expected = "Account Answer Bind BreakStream Cancel Collect Cut Delete DeletePod Deliver Drained Duplicate Ended \
        Finish ForceDelete Forge Heal Judge KillPod KubeletKills Lost OutOfService Partition Read Replace RestartDaemon \
        RestartRunner Retire Return Solve StaleWatch Stop Take TimeOut Unbind WantCancel";
    let expected: BTreeSet<_> = expected.split_whitespace().map(str::to_owned).collect();
    assert_eq!(happened, expected);
}

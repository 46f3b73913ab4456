use buildpools_crds::v1alpha1::MemberPhase::{
    self, Draining, Pending, Ready, Starting, Terminating, Unreachable, Unsupported,
};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

const OLD: bool = true;
const NEW: bool = false;

fn member(ordinal: i32, outdated: bool, phase: MemberPhase) -> Member {
    Member {
        pod: format!("main-{ordinal}"),
        uid: format!("uid-{ordinal}-{outdated}"),
        phase,
        outdated,
        ready: matches!(phase, Ready | Draining),
        proven: matches!(phase, Ready | Draining),
        builds: 0,
        version: Some("v0.34.2".into()),
    }
}

fn marked(ordinal: i32) -> PoolUpgrade {
    let draining =
        DrainingMember { pod: format!("main-{ordinal}"), uid: format!("uid-{ordinal}-true"), since: Time(at(0)) };
    PoolUpgrade { draining: Some(draining), ..begun() }
}

fn begun() -> PoolUpgrade {
    PoolUpgrade { started_at: Time(at(0)), updated: 0, outdated: 1, draining: None }
}

fn problem() -> Problem {
    Problem::ImagePull { pod: "main-1".into(), container: "buildkitd".into(), image: "x".into(), message: "no".into() }
}

#[derive(Default)]
struct Case {
    members: Vec<Member>,
    desired: Option<i32>,
    before: Option<PoolUpgrade>,
    assigned: Vec<&'static str>,
    problems: Vec<Problem>,
    drain_timeout: Option<u64>,
    now: i64,
}

impl Case {
    fn decide(&self) -> Step {
        let assigned: Vec<String> = self.assigned.iter().map(|name| (*name).to_owned()).collect();
        decide(&Seen {
            members: &self.members,
            desired: self.desired.unwrap_or_else(|| i32::try_from(self.members.len()).unwrap()),
            before: self.before.as_ref(),
            assigned: &assigned,
            problems: &self.problems,
            drain_timeout: self.drain_timeout.map(Duration::from_secs),
            now: at(self.now),
        })
    }

    /// The step in short: what is marked, what is deleted, and why.
    fn tell(&self) -> String {
        let step = self.decide();
        assert_eq!(step.status() == Status::True, step.reason != reasons::UP_TO_DATE, "{step:?}");
        let mut text = step.reason.to_owned();
        if let Some(draining) = step.upgrade.as_ref().and_then(|upgrade| upgrade.draining.as_ref()) {
            text = format!("{text}, mark {}", draining.pod);
        }
        if let Some(target) = &step.delete {
            text = format!("{text}, delete {}", target.pod);
        }
        text
    }
}

fn check(situations: Vec<(&str, Case, &str)>) {
    for (what, case, expected) in situations {
        assert_eq!(case.tell(), expected, "{what}");
    }
}

#[test]
fn which_member_is_next() {
    check(vec![
        ("at rest", Case { members: vec![member(0, NEW, Ready)], ..Case::default() }, "UpToDate"),
        ("a pool that starts", Case { members: vec![member(0, NEW, Starting)], ..Case::default() }, "UpToDate"),
        ("no member yet", Case { desired: Some(1), ..Case::default() }, "UpToDate"),
        (
            "the last of equals is the first",
            Case { members: vec![member(0, OLD, Ready), member(1, OLD, Ready)], ..Case::default() },
            "Draining, mark main-1",
        ),
        (
            "the idlest before the last",
            Case {
                members: vec![member(0, OLD, Ready), Member { builds: 1, ..member(1, OLD, Ready) }],
                ..Case::default()
            },
            "Draining, mark main-0",
        ),
        (
            "one that takes no builds before all, and without waiting",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Starting), member(2, NEW, Starting)],
                ..Case::default()
            },
            "Draining, mark main-1",
        ),
        (
            "a BuildKit that is too old",
            Case { members: vec![member(0, OLD, Unsupported), member(1, NEW, Pending)], ..Case::default() },
            "Draining, mark main-0",
        ),
        (
            "one whose node is lost comes last",
            Case { members: vec![member(0, OLD, Ready), member(1, OLD, Unreachable)], ..Case::default() },
            "Draining, mark main-0",
        ),
    ]);
}

#[test]
fn what_becomes_of_the_marked_member() {
    check(vec![
        (
            "builds run on the marked one",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Draining)],
                before: Some(marked(1)),
                assigned: vec!["a"],
                ..Case::default()
            },
            "Draining, mark main-1",
        ),
        (
            "for longer than they should",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Draining)],
                before: Some(marked(1)),
                assigned: vec!["a"],
                drain_timeout: Some(60),
                now: 60,
                ..Case::default()
            },
            "DrainTimeoutExceeded, mark main-1",
        ),
        (
            "no job is assigned to it any more",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Draining)],
                before: Some(marked(1)),
                drain_timeout: Some(60),
                now: 90,
                ..Case::default()
            },
            "Replacing, mark main-1, delete main-1",
        ),
        (
            "it is being stopped",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Terminating)],
                before: Some(marked(1)),
                ..Case::default()
            },
            "Replacing, mark main-1",
        ),
        (
            "it is gone and its replacement not made yet",
            Case { members: vec![member(0, OLD, Ready)], desired: Some(2), before: Some(marked(1)), ..Case::default() },
            "Replacing",
        ),
    ]);
}

#[test]
fn what_is_waited_for_before_the_next() {
    check(vec![
        (
            "its replacement starts",
            Case {
                members: vec![member(0, OLD, Ready), member(1, NEW, Starting)],
                before: Some(marked(1)),
                ..Case::default()
            },
            "Replacing",
        ),
        (
            "it is ready and has not said its version",
            Case {
                members: vec![member(0, OLD, Ready), Member { proven: false, version: None, ..member(1, NEW, Ready) }],
                before: Some(begun()),
                ..Case::default()
            },
            "Replacing",
        ),
        (
            "its replacement does not become ready",
            Case {
                members: vec![member(0, OLD, Ready), member(1, NEW, Starting)],
                before: Some(begun()),
                problems: vec![problem()],
                ..Case::default()
            },
            "ReplacementNotReady",
        ),
        (
            "neither does it when the others are of the newest form",
            Case {
                members: vec![member(0, NEW, Ready), member(1, NEW, Unsupported)],
                before: Some(begun()),
                problems: vec![problem()],
                ..Case::default()
            },
            "ReplacementNotReady",
        ),
        (
            "the broken form is corrected: its member is replaced at once",
            Case {
                members: vec![member(0, OLD, Ready), member(1, OLD, Starting)],
                before: Some(begun()),
                problems: vec![problem()],
                ..Case::default()
            },
            "Draining, mark main-1",
        ),
        (
            "the next one",
            Case {
                members: vec![member(0, OLD, Ready), member(1, NEW, Ready)],
                before: Some(marked(1)),
                ..Case::default()
            },
            "Draining, mark main-0",
        ),
        (
            "the change is taken back: the marked one is of the newest form again",
            Case {
                members: vec![member(0, NEW, Ready), member(1, NEW, Draining)],
                before: Some(PoolUpgrade {
                    draining: Some(DrainingMember {
                        pod: "main-1".into(),
                        uid: "uid-1-false".into(),
                        since: Time(at(0)),
                    }),
                    ..begun()
                }),
                ..Case::default()
            },
            "UpToDate",
        ),
        (
            "all are replaced",
            Case {
                members: vec![member(0, NEW, Ready), member(1, NEW, Ready)],
                before: Some(marked(0)),
                ..Case::default()
            },
            "UpToDate",
        ),
        (
            "a member ends for another reason while nothing is marked",
            Case {
                members: vec![member(0, OLD, Ready), member(1, NEW, Terminating)],
                before: Some(begun()),
                ..Case::default()
            },
            "Replacing",
        ),
    ]);
}

#[test]
fn a_mark_is_written_before_the_jobs_are_looked_at() {
    // What is known of assigned jobs was read before the mark, so it means nothing.
    let step = Case { members: vec![member(0, OLD, Ready)], ..Case::default() }.decide();
    assert_eq!((step.delete, step.look_again), (None, Some(Duration::ZERO)));
}

#[test]
fn the_message_says_how_far_it_is_and_what_it_waits_for() {
    let members = vec![member(0, NEW, Ready), member(1, NEW, Ready), member(2, OLD, Draining)];
    let case = Case {
        members,
        before: Some(marked(2)),
        assigned: vec!["a", "b"],
        drain_timeout: Some(600),
        ..Case::default()
    };
    let step = case.decide();
    assert_eq!(step.message, "2 of 3 members replaced; main-2 finishes 2 builds (a, b) since 2027-01-15T08:00:00Z");
    assert_eq!(step.upgrade.map(|upgrade| (upgrade.updated, upgrade.outdated)), Some((2, 1)));
    // Time alone says nothing new.
    assert_eq!(
        Case {
            now: 599,
            members: case.members.clone(),
            before: case.before.clone(),
            assigned: vec!["a", "b"],
            drain_timeout: Some(600),
            ..Case::default()
        }
        .decide()
        .message,
        step.message
    );
    let over = Case { now: 600, ..case }.decide();
    assert!(over.is_held());
    assert_eq!(
        over.message,
        "2 of 3 members replaced; main-2 has not finished 2 builds (a, b) within drainTimeout (10m), since \
         2027-01-15T08:00:00Z; it is replaced when they have ended: wait, or cancel them (spec.cancel of the BuildJob)"
    );
    let many = vec!["a", "b", "c", "d", "e", "f"];
    let step =
        Case { members: vec![member(0, OLD, Draining)], before: Some(marked(0)), assigned: many, ..Case::default() };
    assert!(step.decide().message.contains("6 builds (a, b, c, d, e, …)"), "{}", step.decide().message);
}

#[test]
fn a_replacement_that_does_not_come_up_says_why_and_that_the_others_stay() {
    let members = vec![member(0, OLD, Ready), member(1, NEW, Starting)];
    let step = Case { members, before: Some(begun()), problems: vec![problem()], ..Case::default() }.decide();
    assert!(step.is_held());
    assert_eq!(
        step.message,
        "0 of 2 members replaced; main-1 does not become ready: pod main-1 cannot pull image x of container buildkitd: no; \
         the others stay as they are until that is mended"
    );
}

#[test]
fn builds_are_looked_at_soon_at_first_and_when_their_time_is_over() {
    for (now, timeout, expected) in
        [(0, None, 1), (40, None, 4), (1000, None, 10), (58, Some(60), 2), (100, Some(60), 10)]
    {
        let members = vec![member(0, OLD, Draining)];
        let case = Case {
            members,
            before: Some(marked(0)),
            assigned: vec!["a"],
            drain_timeout: timeout,
            now,
            ..Case::default()
        };
        assert_eq!(case.decide().look_again, Some(Duration::from_secs(expected)), "after {now} s");
    }
}

/// Every pool comes to rest whatever order things happen in, never has two members out of service by the operator's
/// doing, and a member with builds is never deleted.
#[test]
fn a_roll_replaces_all_members_one_at_a_time() {
    for size in 1..=4 {
        let mut members: Vec<Member> = (0..size).map(|ordinal| member(ordinal, OLD, Ready)).collect();
        let mut before = None;
        let mut deleted = Vec::new();
        let mut jobs: Vec<&'static str> = vec!["a"];
        for _ in 0..40 {
            let case = Case {
                members: members.clone(),
                desired: Some(size),
                before: before.clone(),
                assigned: jobs.clone(),
                ..Case::default()
            };
            let step = case.decide();
            if let Some(target) = &step.delete {
                assert!(jobs.is_empty(), "{target:?} has builds");
                deleted.push(target.pod.clone());
            }
            let ready = members.iter().filter(|member| matches!(member.phase, Ready | Draining)).count();
            assert!(ready + 1 >= members.len(), "two members are out of service: {members:?}");
            // The world moves one step.
            let marked = step.upgrade.as_ref().and_then(|upgrade| upgrade.draining.clone());
            for member in &mut members {
                let is_marked = marked.as_ref().is_some_and(|marked| marked.uid == member.uid);
                *member = match member.phase {
                    Terminating => super::tests::member(member.pod[5..].parse().unwrap(), NEW, Starting),
                    Starting => super::tests::member(member.pod[5..].parse().unwrap(), NEW, Ready),
                    _ if step.delete.as_ref().is_some_and(|target| target.uid == member.uid) => {
                        Member { phase: Terminating, proven: false, ..member.clone() }
                    }
                    _ if is_marked => Member { phase: Draining, ..member.clone() },
                    _ => member.clone(),
                };
            }
            jobs = if marked.is_some() && !jobs.is_empty() { vec![] } else { jobs };
            if marked.is_none() {
                jobs = vec!["a"];
            }
            before = step.upgrade;
            if before.is_none() {
                break;
            }
        }
        let expected: Vec<String> = (0..size).rev().map(|ordinal| format!("main-{ordinal}")).collect();
        assert_eq!(deleted, expected);
        assert!(members.iter().all(|member| !member.outdated && member.phase == Ready) && before.is_none());
    }
}

//! What can happen next.

use crate::state::{Build, IN_FLIGHT, JOBS, Job, MEMBERS, Member, Message, Object, Phase, Pod, State, Task, Write};
use crate::{Protocol, Rule, Zombies};

/// Something that happens. Numbers are those of the job, the member and the place in flight; as states that differ
/// only by the order of jobs and members count as one, a job may have another number after the next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An operator sends a write about a job; both do if it happens twice.
    Decide(u8, Write, Pod),
    /// A message reaches the API server.
    Deliver(u8, u8),
    /// A runner goes on with a job.
    Runner(Move, u8, u8),
    /// A build comes to its end.
    Finish(u8, u8),
    /// The daemon notices that a build's client is gone, and ends the build.
    Cut(u8, u8),
    /// The node is reachable again.
    Heal(u8),
    /// Somebody says that the unreachable node is out of service.
    OutOfService(u8),
    /// The kubelet ends containers whose pod is not in the API any more.
    KubeletKills(u8),
    /// The runner of a pod that is to end has nothing more to do, and the pod ends.
    Drained(u8),
    /// An Ephemeral pod has had its job and ends.
    Retire(u8),
    /// The StatefulSet's next pod of this name starts.
    Replace(u8),
    /// Fault: the runner's container is restarted.
    RestartRunner(u8),
    /// Fault: the daemon's container is restarted.
    RestartDaemon(u8),
    /// Fault: the pod is deleted, with its grace period.
    DeletePod(u8),
    /// Fault: the pod's containers end at once (eviction, grace period over, node reboot).
    KillPod(u8),
    /// Fault: the pod's object is deleted by force, before its containers end.
    ForceDelete(u8),
    /// Fault: the node does not reach the API server.
    Partition(u8),
    /// Fault: a runner's call times out, and its message arrives later or never.
    TimeOut(u8, u8),
    /// Fault: a message arrives twice.
    Duplicate(u8, u8),
    /// Fault: the connection between runner and daemon breaks.
    BreakStream(u8, u8),
    /// Fault: the operator's cache does not know a pod that is there, and the rule that it asks is left out.
    StaleCache(u8),
    /// Fault: a runner's watch shows a job as it was when it was bound to it.
    StaleWatch(u8, u8),
    /// A user wishes the job cancelled.
    WantCancel(u8),
    /// A user deletes the job.
    Delete(u8),
    /// The attacker writes to a job.
    Forge(u8, Forgery),
}

/// A step of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It sees a job that is bound to it, and sends *running*.
    Take,
    /// It gives the job back.
    Return,
    /// It sees a job that is Running here and that no task of this process runs.
    Account,
    /// It gets the answer to its write.
    Answer,
    /// It reads the job.
    Read,
    /// It asks the daemon to solve.
    Solve,
    /// It hears that the build is over, or that the connection broke.
    Collect,
    /// It cancels the build: the job is not ours any more, the token is refused, or a user wishes it.
    Stop,
    /// The daemon has ended the build that was stopped.
    Ended,
    /// It knows what became of the attempt it accounts for.
    Judge,
}

/// What an attacker tries to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Forgery {
    Running,
    Pending,
    Succeeded,
    BindToMe,
    BindToOther,
    ForgetAttempts,
}

const FORGERIES: [Forgery; 6] = [
    Forgery::Running,
    Forgery::Pending,
    Forgery::Succeeded,
    Forgery::BindToMe,
    Forgery::BindToOther,
    Forgery::ForgetAttempts,
];

pub(crate) const ROGUE: u8 = 1;

impl Action {
    pub(crate) fn is_fault(self) -> bool {
        matches!(
            self,
            Self::RestartRunner(_)
                | Self::RestartDaemon(_)
                | Self::DeletePod(_)
                | Self::KillPod(_)
                | Self::ForceDelete(_)
                | Self::Partition(_)
                | Self::TimeOut(..)
                | Self::Duplicate(..)
                | Self::BreakStream(..)
                | Self::StaleCache(_)
                | Self::StaleWatch(..)
        )
    }

    pub(crate) fn is_wish(self) -> bool {
        matches!(self, Self::WantCancel(_) | Self::Delete(_))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "three jobs, two members")]
pub(crate) fn numbers(count: usize) -> impl Iterator<Item = u8> {
    (0..count).map(|number| number as u8)
}

impl Protocol {
    /// All that can happen now.
    pub fn possible(&self, state: &State, out: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        self.operators(state, out);
        for (number, job) in numbers(JOBS).zip(&state.jobs) {
            out.extend(
                numbers(IN_FLIGHT)
                    .filter(|place| job.flight[usize::from(*place)].is_some())
                    .map(|p| Action::Deliver(number, p)),
            );
            for (name, member) in numbers(MEMBERS).zip(&state.members) {
                if member.up && !(self.bounds.rogue && name == ROGUE) {
                    self.moves(state, number, name, out);
                }
                if let Build::Active { client, .. } = job.builds[usize::from(name)] {
                    out.push(Action::Finish(number, name));
                    if !client {
                        out.push(Action::Cut(number, name));
                    }
                }
            }
        }
        for (name, member) in numbers(MEMBERS).zip(&state.members) {
            self.cluster(state, name, *member, out);
        }
        if state.faults > 0 {
            self.faults(state, out);
        }
        if state.wishes > 0 {
            for (number, job) in numbers(JOBS).zip(&state.jobs) {
                if job.phase != Phase::Absent && !job.phase.is_terminal() {
                    out.push(Action::Delete(number));
                    if !job.cancel {
                        out.push(Action::WantCancel(number));
                    }
                }
            }
        }
        if self.bounds.rogue {
            for (number, job) in numbers(JOBS).zip(&state.jobs) {
                if job.phase != Phase::Absent {
                    let more = |forgery: &Forgery| *forgery != Forgery::Running || job.attempts <= self.bounds.retries;
                    out.extend(FORGERIES.iter().filter(|f| more(f)).map(|f| Action::Forge(number, *f)));
                }
            }
        }
    }

    /// An operator may believe anything that was true once about slots and members, so it may bind a job to any member
    /// and take it back at any time. What it may never do is left to its writes.
    fn operators(&self, state: &State, out: &mut Vec<Action>) {
        if state.jobs.iter().map(|job| job.flight.iter().flatten().count()).sum::<usize>() >= self.bounds.in_flight {
            return;
        }
        for (number, job) in numbers(JOBS).zip(&state.jobs) {
            let mut decide = |write, pod| {
                let message = message(job, write, pod);
                // The second of two equal ones would only be refused.
                if job.flight.contains(&None)
                    && !(self.has(Rule::CompareAndSwap) && job.flight.contains(&Some(message)))
                {
                    out.push(Action::Decide(number, write, pod));
                }
            };
            let pod = job.pod.unwrap_or(Pod::Replaced);
            let back = self.has(Rule::TakeBackFromGone);
            match job.phase {
                // A rogue may have used up attempts beyond all bounds.
                Phase::Pending if self.bounds.rogue && job.attempts > self.bounds.retries => {}
                Phase::Pending => {
                    if job.cancel {
                        decide(Write::Cancel, pod);
                    }
                    if !job.cancel || !self.has(Rule::CancelRespected) {
                        numbers(MEMBERS).for_each(|member| decide(Write::Bind, Pod::Of(member)));
                    }
                }
                Phase::Bound => {
                    if job.cancel {
                        decide(Write::Cancel, pod);
                    }
                    if back {
                        decide(Write::Unbind, pod);
                    }
                }
                Phase::Running => {
                    if back && self.is_gone(state, pod) {
                        decide(Write::Lost, pod);
                    }
                    if !self.has(Rule::UnbindOnlyBeforeRunning) {
                        decide(Write::Unbind, pod);
                    }
                }
                _ => {}
            }
        }
    }

    fn is_gone(&self, state: &State, pod: Pod) -> bool {
        match pod {
            Pod::Replaced => true,
            Pod::Of(member) => {
                let member = &state.members[usize::from(member)];
                member.is_gone() || (member.object == Object::Leaving && !self.has(Rule::GoneNeedsContainersEnded))
            }
        }
    }

    fn cluster(&self, state: &State, name: u8, member: Member, out: &mut Vec<Action>) {
        if !member.reachable {
            out.push(Action::Heal(name));
            out.push(Action::OutOfService(name));
            return;
        }
        if !member.up {
            out.push(Action::Replace(name));
            return;
        }
        let at = usize::from(name);
        let idle =
            state.jobs.iter().all(|job| job.tasks[at] == Task::None && !matches!(job.builds[at], Build::Active { .. }));
        match member.object {
            Object::Absent => out.push(Action::KubeletKills(name)),
            Object::Leaving if idle => out.push(Action::Drained(name)),
            Object::Present if idle && self.bounds.ephemeral && member.used => out.push(Action::Retire(name)),
            _ => {}
        }
    }

    fn faults(&self, state: &State, out: &mut Vec<Action>) {
        for (name, member) in numbers(MEMBERS).zip(&state.members) {
            if member.up {
                out.push(Action::RestartRunner(name));
                if state.jobs.iter().any(|job| matches!(job.builds[usize::from(name)], Build::Active { .. })) {
                    out.push(Action::RestartDaemon(name));
                }
                if member.object != Object::Absent {
                    out.push(Action::KillPod(name));
                }
            }
            if member.object == Object::Present {
                out.push(Action::DeletePod(name));
            }
            if self.bounds.zombies != Zombies::Unforced && member.object != Object::Absent && member.up {
                out.push(Action::ForceDelete(name));
            }
            if member.reachable {
                out.push(Action::Partition(name));
            }
        }
        for (number, job) in numbers(JOBS).zip(&state.jobs) {
            let waiting = |name: &u8| {
                let task = job.tasks[usize::from(*name)];
                matches!(task, Task::Starting { .. } | Task::Reporting { .. } | Task::Returning { .. })
            };
            out.extend(numbers(MEMBERS).filter(waiting).map(|name| Action::TimeOut(number, name)));
            let present = |place: &u8| job.flight[usize::from(*place)].is_some();
            out.extend(numbers(IN_FLIGHT).filter(present).map(|place| Action::Duplicate(number, place)));
            let streaming = |name: &u8| {
                let at = usize::from(*name);
                matches!((job.tasks[at], job.builds[at]), (Task::Building(_), Build::Active { client: true, .. }))
            };
            out.extend(numbers(MEMBERS).filter(streaming).map(|name| Action::BreakStream(number, name)));
            let misled = |name: &u8| {
                let at = usize::from(*name);
                let bound = job.phase == Phase::Bound && job.pod == Some(Pod::Of(*name));
                let idle = state.members[at].talks() && job.tasks[at] == Task::None;
                idle && !bound && job.phase != Phase::Absent && self.may_take(state, number, *name)
            };
            out.extend(numbers(MEMBERS).filter(misled).map(|name| Action::StaleWatch(number, name)));
            let seems_gone = !self.has(Rule::VerifyGoneByRead) && job.phase == Phase::Running;
            if seems_gone && job.flight.contains(&None) {
                out.push(Action::StaleCache(number));
            }
        }
    }
}

/// The write, made from the job as it is.
pub(crate) fn message(job: &Job, write: Write, pod: Pod) -> Message {
    Message { write, pod, attempts: job.attempts, live: false, fresh: true }
}

//! What a runner does about a job, step by step.

use crate::actions::{Action, Move};
use crate::api_server::Answer;
use crate::state::{Build, Job, Message, Object, Outcome, Phase, Pod, State, Task, Write};
use crate::{Invariant, Protocol, Rule};

impl Protocol {
    /// The steps that this member's runner, which is up, can do about this job.
    pub(crate) fn moves(&self, state: &State, number: u8, name: u8, out: &mut Vec<Action>) {
        let (job, member) = (&state.jobs[usize::from(number)], &state.members[usize::from(name)]);
        let build = job.builds[usize::from(name)];
        let mut can = |step| out.push(Action::Runner(step, number, name));
        let talks = member.talks();
        let here = job.pod == Some(Pod::Of(name));
        let runs = |attempt| matches!(build, Build::Active { attempt: active, .. } if active == attempt);
        // It was told that the job is not its own any more, or its token is refused.
        let lost = |attempt| if talks { !job.runs(name, attempt) } else { member.reachable };
        match job.tasks[usize::from(name)] {
            Task::None if talks && here && job.phase == Phase::Bound => {
                if self.may_take(state, number, name) {
                    can(Move::Take);
                } else if !job.cancel {
                    can(Move::Return);
                }
            }
            Task::None if talks && here && job.phase == Phase::Running && self.has(Rule::AccountAfterRestart) => {
                can(Move::Account);
            }
            Task::Starting { .. } | Task::Reporting { .. } | Task::Returning { .. } if talks => can(Move::Answer),
            Task::StartUnclear(_) | Task::ReportUnclear(..) if talks => can(Move::Read),
            Task::Solving(_) => can(Move::Solve),
            Task::Building(attempt) => {
                if !matches!(build, Build::Active { attempt: active, client: true } if active == attempt) {
                    can(Move::Collect);
                }
                if lost(attempt) || (talks && job.cancel) {
                    can(Move::Stop);
                }
            }
            Task::Ending { attempt, .. } if !runs(attempt) || !self.has(Rule::StopWaitsForTheEnd) => can(Move::Ended),
            Task::Accounting(attempt) => {
                if !runs(attempt) || !self.has(Rule::AccountWaitsForTheEnd) {
                    can(Move::Judge);
                }
                if lost(attempt) {
                    can(Move::Stop);
                }
            }
            _ => {}
        }
    }

    /// Whether this member's runner takes another job, as far as it knows.
    pub(crate) fn may_take(&self, state: &State, number: u8, name: u8) -> bool {
        let (job, member) = (&state.jobs[usize::from(number)], &state.members[usize::from(name)]);
        (member.object == Object::Present || !self.has(Rule::LeavingTakesNothing))
            && (self.taken(state, name) < self.bounds.slots || !self.has(Rule::RunnerEnforcesSlots))
            && !(self.bounds.ephemeral && member.used && self.has(Rule::EphemeralOneJob))
            && !(job.cancel && self.has(Rule::CancelRespected))
            && (self.has(Rule::RunningBeforeSolve) || job.flight.contains(&None))
    }

    /// Slots that the runner counts as taken.
    fn taken(&self, state: &State, name: u8) -> usize {
        let takes = |job: &&Job| match job.tasks[usize::from(name)] {
            Task::Starting { .. }
            | Task::StartUnclear(_)
            | Task::Solving(_)
            | Task::Building(_)
            | Task::Ending { .. } => true,
            _ => self.has(Rule::OldBuildsTakeSlots) && matches!(job.builds[usize::from(name)], Build::Active { .. }),
        };
        state.jobs.iter().filter(takes).count()
    }

    /// Does one of them.
    pub(crate) fn step(&self, state: &mut State, step: Move, number: u8, name: u8) -> Option<Invariant> {
        let at = usize::from(name);
        let job = &mut state.jobs[usize::from(number)];
        let task = job.tasks[at];
        let mut broken = None;
        job.tasks[at] = match (step, task) {
            (Move::Take, _) if self.has(Rule::RunningBeforeSolve) => {
                Task::Starting { attempts: job.attempts, fresh: true }
            }
            (Move::Take, _) => {
                let attempts = job.attempts;
                job.send(Message { write: Write::Start, pod: Pod::Of(name), attempts, live: true, fresh: true });
                Task::Solving(attempts + 1)
            }
            (Move::Return, _) => Task::Returning { fresh: true },
            (Move::Account, _) if self.has(Rule::NeverSolveRunningOfAnotherInstance) => Task::Accounting(job.attempts),
            (Move::Account, _) => Task::Solving(job.attempts),
            (Move::Answer, _) => {
                let message = match task {
                    Task::Starting { attempts, fresh } => Some((Write::Start, attempts, fresh)),
                    Task::Reporting { attempt, outcome, fresh } => Some((Write::Outcome(outcome), attempt, fresh)),
                    Task::Returning { fresh } => Some((Write::Return, job.attempts, fresh)),
                    _ => None,
                };
                match message {
                    Some((write, attempts, fresh)) => {
                        let message = Message { write, pod: Pod::Of(name), attempts, live: true, fresh };
                        let (answer, wrong) = self.write(job, message);
                        broken = wrong;
                        answered(task, answer, job.attempts)
                    }
                    None => task,
                }
            }
            (Move::Read, Task::StartUnclear(_)) => self.read_start(job, name),
            (Move::Read, Task::ReportUnclear(attempt, outcome)) => {
                let blind = !self.has(Rule::OutcomeNeedsSameAttempt) && !job.phase.is_terminal();
                if job.phase != Phase::Absent && (job.runs(name, attempt) || blind) {
                    Task::Reporting { attempt, outcome, fresh: true }
                } else {
                    Task::None
                }
            }
            (Move::Solve, Task::Solving(attempt)) => {
                let bit = 1 << attempt;
                let member = &mut state.members[at];
                member.solves = if self.bounds.ephemeral { member.solves + 1 } else { 0 };
                if job.solved & bit != 0 {
                    broken = Some(Invariant::OneSolve);
                } else if member.solves > 1 {
                    broken = Some(Invariant::EphemeralOnce);
                } else if matches!(job.builds[at], Build::Active { .. }) {
                    broken = Some(Invariant::OneLiveAttempt);
                }
                job.solved |= bit;
                job.builds[at] = Build::Active { attempt, client: true };
                Task::Building(attempt)
            }
            (Move::Collect, Task::Building(attempt)) => match job.builds[at] {
                // The daemon is there, only the connection is not.
                Build::Active { .. } if self.has(Rule::BrokenStreamIsAccounted) => Task::Accounting(attempt),
                build => report(job, name, attempt, verdict(build, attempt)),
            },
            (Move::Stop, Task::Building(attempt)) => {
                if let Build::Active { client, .. } = &mut job.builds[at] {
                    *client = false;
                }
                let ours = state.members[at].talks() && job.runs(name, attempt);
                Task::Ending { attempt, report: ours }
            }
            (Move::Stop, _) | (Move::Ended, Task::Ending { report: false, .. }) => Task::None,
            (Move::Ended, Task::Ending { attempt, .. }) => match verdict(job.builds[at], attempt) {
                Outcome::Done => report(job, name, attempt, Outcome::Done),
                _ => report(job, name, attempt, Outcome::Cancelled),
            },
            (Move::Judge, Task::Accounting(attempt)) => {
                let outcome = verdict(job.builds[at], attempt);
                report(job, name, attempt, outcome)
            }
            (_, task) => task,
        };
        if self.bounds.ephemeral && matches!(job.tasks[at], Task::Solving(_)) {
            state.members[at].used = true;
        }
        broken
    }

    /// What a runner does after an answer that leaves open what happened.
    pub(crate) fn unclear(&self, task: Task) -> Task {
        match task {
            Task::Starting { attempts, .. } if self.has(Rule::ReadAgainAfterAmbiguity) => Task::StartUnclear(attempts),
            Task::Starting { attempts, .. } => Task::Solving(attempts + 1),
            Task::Reporting { attempt, outcome, .. } => Task::ReportUnclear(attempt, outcome),
            _ => Task::None,
        }
    }

    /// The job as it is, after an answer to *running* that was no success.
    fn read_start(&self, job: &Job, name: u8) -> Task {
        let here = job.pod == Some(Pod::Of(name));
        let ours = job.instance || !self.has(Rule::NeverSolveRunningOfAnotherInstance);
        match job.phase {
            Phase::Running if here && ours => Task::Solving(job.attempts),
            Phase::Bound if here && !(job.cancel && self.has(Rule::CancelRespected)) => {
                Task::Starting { attempts: job.attempts, fresh: true }
            }
            _ => Task::None,
        }
    }
}

/// The outcome is written over the status that *running* was acknowledged with: stale, if that has changed.
fn report(job: &Job, name: u8, attempt: u8, outcome: Outcome) -> Task {
    Task::Reporting { attempt, outcome, fresh: job.runs(name, attempt) }
}

/// What a runner does after an answer.
fn answered(task: Task, answer: Answer, attempts: u8) -> Task {
    match (task, answer) {
        (Task::Starting { .. }, Answer::Written) => Task::Solving(attempts),
        (_, Answer::Written | Answer::NotFound) | (Task::Returning { .. }, _) => Task::None,
        (Task::Starting { attempts, .. }, _) => Task::StartUnclear(attempts),
        (Task::Reporting { attempt, outcome, .. }, _) => Task::ReportUnclear(attempt, outcome),
        (task, _) => task,
    }
}

/// What the daemon's record of this attempt says.
fn verdict(build: Build, attempt: u8) -> Outcome {
    if build == Build::Done(attempt) { Outcome::Done } else { Outcome::Lost }
}

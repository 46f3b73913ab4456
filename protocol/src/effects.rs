//! What the world is like after an action.

use crate::actions::{Action, Forgery, ROGUE, message, numbers};
use crate::state::{Build, Job, MEMBERS, Member, Message, Object, Phase, Pod, State, Task, Write};
use crate::{Invariant, Protocol, Rule, Zombies};

impl Protocol {
    /// The world after an action that is possible.
    pub fn after(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        let s = &mut next;
        s.wishes -= u8::from(action.is_wish());
        s.faults -= u8::from(action.is_fault());
        let mut broken = None;
        match action {
            Action::Decide(job, write, pod) => {
                let job = &mut s.jobs[usize::from(job)];
                job.send(message(job, write, pod));
            }
            Action::Deliver(job, place) | Action::Duplicate(job, place) => {
                let job = &mut s.jobs[usize::from(job)];
                let place = usize::from(place);
                if let Some(message) = job.flight[place] {
                    if !matches!(action, Action::Duplicate(..)) {
                        job.flight[place] = None;
                    }
                    (_, broken) = self.write(job, message);
                }
            }
            Action::Runner(step, job, member) => broken = self.step(s, step, job, member),
            Action::Finish(job, member) => end_build(&mut s.jobs[usize::from(job)], member, Build::Done),
            Action::Cut(job, member) => end_build(&mut s.jobs[usize::from(job)], member, Build::Cut),
            Action::Heal(member) => s.members[usize::from(member)].reachable = true,
            Action::OutOfService(member) => {
                if self.has(Rule::OutOfServiceMeansOff) {
                    stop_pod(s, member);
                    s.members[usize::from(member)].reachable = true;
                }
                s.members[usize::from(member)].object = Object::Absent;
            }
            Action::KubeletKills(member) => stop_pod(s, member),
            Action::Drained(member) | Action::Retire(member) | Action::KillPod(member) => {
                stop_pod(s, member);
                s.members[usize::from(member)].object = Object::Leaving;
            }
            Action::Replace(member) => replace_pod(s, member),
            Action::RestartRunner(member) => {
                stop_runner(s, member);
                if !self.has(Rule::EphemeralMarkSurvives) {
                    s.members[usize::from(member)].used = false;
                }
            }
            Action::RestartDaemon(member) => {
                for job in &mut s.jobs {
                    let build = &mut job.builds[usize::from(member)];
                    if let Build::Active { .. } = build {
                        *build = Build::None;
                    }
                }
            }
            Action::DeletePod(member) => s.members[usize::from(member)].object = Object::Leaving,
            Action::ForceDelete(member) => s.members[usize::from(member)].object = Object::Absent,
            Action::Partition(member) => s.members[usize::from(member)].reachable = false,
            Action::TimeOut(job, member) => {
                let after = self.unclear(s.jobs[usize::from(job)].tasks[usize::from(member)]);
                let job = &mut s.jobs[usize::from(job)];
                abandon(job, member, true);
                job.tasks[usize::from(member)] = after;
            }
            Action::BreakStream(job, member) => {
                if let Build::Active { client, .. } = &mut s.jobs[usize::from(job)].builds[usize::from(member)] {
                    *client = false;
                }
            }
            Action::StaleCache(job) => {
                let job = &mut s.jobs[usize::from(job)];
                job.send(message(job, Write::Lost, job.pod.unwrap_or(Pod::Replaced)));
            }
            Action::StaleWatch(job, member) => {
                let job = &mut s.jobs[usize::from(job)];
                job.tasks[usize::from(member)] = Task::Starting { attempts: job.attempts, fresh: false };
            }
            Action::WantCancel(job) => {
                let job = &mut s.jobs[usize::from(job)];
                job.cancel = true;
                job.changed();
            }
            Action::Delete(job) => {
                let job = &mut s.jobs[usize::from(job)];
                let Job { attempts, solved, tasks, builds, .. } = *job;
                *job = Job { attempts, solved, tasks, builds, ..Job::ABSENT };
                job.changed();
            }
            Action::Forge(job, forgery) => broken = self.forge(&mut s.jobs[usize::from(job)], forgery),
        }
        next.broken = broken.or_else(|| self.wrong(&next)).filter(|invariant| self.demands(*invariant));
        next.tidy(self.has(Rule::CompareAndSwap), !self.bounds.rogue);
        next.canonical(self.bounds.rogue)
    }

    /// What an attacker can do to jobs that are bound to it is its own loss.
    fn demands(&self, invariant: Invariant) -> bool {
        let own = matches!(
            invariant,
            Invariant::RetryBound | Invariant::NoStartAfterCancel | Invariant::OutcomeOfThisAttempt
        );
        !(self.bounds.rogue && own)
    }

    /// The attacker's runner reads the job and writes at once.
    fn forge(&self, job: &mut Job, forgery: Forgery) -> Option<Invariant> {
        let mut next = *job;
        match forgery {
            Forgery::Running => {
                next.phase = Phase::Running;
                next.attempts += 1;
            }
            Forgery::Pending => (next.phase, next.pod, next.instance) = (Phase::Pending, None, false),
            Forgery::Succeeded => (next.phase, next.pod, next.instance) = (Phase::Succeeded, None, false),
            Forgery::BindToMe => (next.phase, next.pod, next.instance) = (Phase::Bound, Some(Pod::Of(ROGUE)), false),
            Forgery::BindToOther => (next.phase, next.pod, next.instance) = (Phase::Bound, Some(Pod::Of(0)), false),
            Forgery::ForgetAttempts => next.attempts = 0,
        }
        if next == *job {
            return None;
        }
        let me = Some(Pod::Of(ROGUE));
        let foreign = job.pod != me || next.pod.is_some_and(|pod| Some(pod) != me);
        if foreign && self.has(Rule::FencedByPodUid) {
            return None;
        }
        self.store(job, next, foreign.then_some(Invariant::OwnJobsOnly)).1
    }

    /// Which invariant of states is broken.
    fn wrong(&self, state: &State) -> Option<Invariant> {
        for (name, member) in numbers(MEMBERS).zip(&state.members) {
            let mut builds = 0;
            for job in &state.jobs {
                if let Build::Active { attempt, .. } = job.builds[usize::from(name)] {
                    builds += 1;
                    let excepted = member.is_zombie() && self.bounds.zombies == Zombies::Excepted;
                    let known = job.runs(name, attempt) || job.phase == Phase::Absent;
                    if !(known || excepted) {
                        return Some(Invariant::OneLiveAttempt);
                    }
                }
            }
            if builds > self.bounds.slots {
                return Some(Invariant::Slots);
            }
        }
        None
    }
}

fn end_build(job: &mut Job, member: u8, how: impl Fn(u8) -> Build) {
    let build = &mut job.builds[usize::from(member)];
    if let Build::Active { attempt, .. } = *build {
        *build = how(attempt);
    }
}

/// The task's process does not wait any more for the answer to what it sent. The message may still arrive.
fn abandon(job: &mut Job, member: u8, live: bool) {
    let task = std::mem::replace(&mut job.tasks[usize::from(member)], Task::None);
    let (write, attempts, fresh) = match task {
        Task::Starting { attempts, fresh } => (Write::Start, attempts, fresh),
        Task::Reporting { attempt, outcome, fresh } => (Write::Outcome(outcome), attempt, fresh),
        Task::Returning { fresh } => (Write::Return, job.attempts, fresh),
        _ => return,
    };
    // Without room it is one that never arrives.
    job.send(Message { write, pod: Pod::Of(member), attempts, live, fresh });
}

/// The runner's process ends. Another may start in the same pod, without a memory.
fn stop_runner(state: &mut State, member: u8) {
    for job in &mut state.jobs {
        abandon(job, member, false);
        for message in job.flight.iter_mut().flatten() {
            if message.pod == Pod::Of(member) {
                message.live = false;
            }
        }
        if job.pod == Some(Pod::Of(member)) {
            job.instance = false;
        }
        if let Build::Active { client, .. } = &mut job.builds[usize::from(member)] {
            *client = false;
        }
    }
}

/// All containers end.
fn stop_pod(state: &mut State, member: u8) {
    stop_runner(state, member);
    for job in &mut state.jobs {
        job.builds[usize::from(member)] = Build::None;
    }
    state.members[usize::from(member)].up = false;
}

fn replace_pod(state: &mut State, member: u8) {
    for job in &mut state.jobs {
        let replace = |pod: &mut Pod| {
            if *pod == Pod::Of(member) {
                *pod = Pod::Replaced;
            }
        };
        job.pod.iter_mut().for_each(replace);
        job.flight.iter_mut().flatten().for_each(|message| replace(&mut message.pod));
    }
    state.members[usize::from(member)] = Member::NEW;
}

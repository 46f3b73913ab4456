//! What the world looks like at one moment, as small as it can be: a checker keeps millions of these.
//!
//! Everything that only matters by comparison is kept as the result of the comparison. A resourceVersion is compared
//! with the current one and nothing else, so a message only knows whether it is `fresh`. A pod's UID is a member's
//! present pod or one that is gone. A runner's instance is the process that runs in that pod or an earlier one.

use std::hash::{Hash, Hasher};

/// Jobs of the model.
pub const JOBS: usize = 3;
/// Members of the pool.
pub const MEMBERS: usize = 2;
/// Messages about one job that may be in flight with nobody waiting for their answer.
pub const IN_FLIGHT: usize = 2;

/// Phase of a job in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the phases of the API")]
pub enum Phase {
    Pending,
    Bound,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// Deleted; also the place of a job that there is not, and of one that ended and about which nothing is left in
    /// flight.
    Absent,
}

impl Phase {
    /// Whether the job has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// UID of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    /// The present, or last, pod of this member.
    Of(u8),
    /// One that was replaced: nothing of it runs. Such UIDs are not told apart, so more is possible in the model than
    /// in the world.
    Replaced,
}

/// A status write on its way to the API server. Nobody waits for its answer any more, or nothing depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What is to be written.
    pub write: Write,
    /// The pod that is bound or unbound, or the pod of the runner that writes.
    pub pod: Pod,
    /// Attempts in the status that the write was made from.
    pub attempts: u8,
    /// Whether the process that sent it still runs.
    pub live: bool,
    /// Whether the job is still as it was when the write was made from it.
    pub fresh: bool,
}

/// A status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Operator: Pending → Bound.
    Bind,
    /// Operator: Bound → Pending.
    Unbind,
    /// Operator: the attempt is lost with its pod.
    Lost,
    /// Operator: Pending or Bound → Cancelled.
    Cancel,
    /// Runner: Bound → Running.
    Start,
    /// Runner: Bound → Pending.
    Return,
    /// Runner: the attempt has ended.
    Outcome(Outcome),
}

impl Write {
    /// Whether a runner writes it.
    pub fn by_runner(self) -> bool {
        matches!(self, Self::Start | Self::Return | Self::Outcome(_))
    }
}

/// How an attempt ended. A failure of the build itself is as final as a success, so one stands for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The build came to its end.
    Done,
    /// It was lost: an infrastructure failure.
    Lost,
    /// It was stopped because the user wanted that.
    Cancelled,
}

/// What the runner process of a member does about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    None,
    /// *running* is on its way.
    Starting {
        /// See [`Message::attempts`].
        attempts: u8,
        /// See [`Message::fresh`].
        fresh: bool,
    },
    /// Whether *running* was written is not known, or it was refused: the job must be read.
    StartUnclear(u8),
    /// *running* of this attempt is acknowledged.
    Solving(u8),
    /// The daemon has the build of this attempt.
    Building(u8),
    /// The build was cancelled; the daemon has not said yet that it ended.
    Ending {
        /// Attempt.
        attempt: u8,
        /// Whether an outcome is to be written then: the job is still ours.
        report: bool,
    },
    /// Finding out what became of an attempt of an earlier process.
    Accounting(u8),
    /// The outcome is on its way.
    Reporting {
        /// Attempt.
        attempt: u8,
        /// How it ended.
        outcome: Outcome,
        /// See [`Message::fresh`].
        fresh: bool,
    },
    /// Whether the outcome was written is not known, or it was refused: the job must be read.
    ReportUnclear(u8, Outcome),
    /// Giving the job back.
    Returning {
        /// See [`Message::fresh`].
        fresh: bool,
    },
}

/// What the daemon of a member knows of a job: its last attempt there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Nothing.
    None,
    /// It runs.
    Active {
        /// Attempt.
        attempt: u8,
        /// Whether the client that asked for it is there. Without, the daemon ends it, but not at once.
        client: bool,
    },
    /// It came to its end.
    Done(u8),
    /// It was cut off ("context canceled").
    Cut(u8),
}

/// A job: in the API, in flight, and in the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// `status.phase`.
    pub phase: Phase,
    /// `status.assignedTo`.
    pub pod: Option<Pod>,
    /// Whether `status.runnerInstance` is the process that runs in that pod now.
    pub instance: bool,
    /// Length of `status.attempts`.
    pub attempts: u8,
    /// `spec.cancel`.
    pub cancel: bool,
    /// Not in the world: which attempts a runner has asked a daemon to solve, one bit each.
    pub solved: u8,
    /// Messages in flight.
    pub flight: [Option<Message>; IN_FLIGHT],
    /// The runners' tasks.
    pub tasks: [Task; MEMBERS],
    /// The daemons' records.
    pub builds: [Build; MEMBERS],
}

impl Job {
    /// Newly created.
    pub const NEW: Self = Self {
        phase: Phase::Pending,
        pod: None,
        instance: false,
        attempts: 0,
        cancel: false,
        solved: 0,
        flight: [None; IN_FLIGHT],
        tasks: [Task::None; MEMBERS],
        builds: [Build::None; MEMBERS],
    };
    /// Not there.
    pub const ABSENT: Self = Self { phase: Phase::Absent, ..Self::NEW };

    /// Whether the status says that this attempt runs in this member's present pod.
    pub fn runs(&self, member: u8, attempt: u8) -> bool {
        self.phase == Phase::Running && self.pod == Some(Pod::Of(member)) && self.attempts == attempt
    }

    /// Puts a message in flight, if there is room.
    pub fn send(&mut self, message: Message) -> bool {
        let free = self.flight.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(message)).is_some()
    }

    /// The status is another now: what was made from an earlier one is stale.
    pub fn changed(&mut self) {
        for message in self.flight.iter_mut().flatten() {
            message.fresh = false;
        }
        for task in &mut self.tasks {
            if let Task::Starting { fresh, .. } | Task::Reporting { fresh, .. } | Task::Returning { fresh } = task {
                *fresh = false;
            }
        }
    }
}

/// What the API says about a member's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// It is there and is to stay.
    Present,
    /// It is there and is to end: it is being deleted or was evicted.
    Leaving,
    /// It is not there. Its containers may still run for a while, if somebody forced the deletion.
    Absent,
}

/// A member of the pool: its pod and what runs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The pod in the API.
    pub object: Object,
    /// Whether its containers run.
    pub up: bool,
    /// Whether its node reaches the API server.
    pub reachable: bool,
    /// Class Ephemeral: whether the pod bears the mark that it has had its job.
    pub used: bool,
    /// Not in the world: solves under this pod UID, for class Ephemeral.
    pub solves: u8,
}

impl Member {
    /// A new pod.
    pub const NEW: Self = Self { object: Object::Present, up: true, reachable: true, used: false, solves: 0 };

    /// Whether the pod's end can be seen in the API: the object is absent, or its containers are reported as ended.
    pub fn is_gone(&self) -> bool {
        self.object == Object::Absent || (self.object == Object::Leaving && !self.up && self.reachable)
    }

    /// Whether the runner can read and write: its token is bound to the pod's object.
    pub fn talks(&self) -> bool {
        self.up && self.reachable && self.object != Object::Absent
    }

    /// Whether it is the runner of a pod that the API does not know any more.
    pub fn is_zombie(&self) -> bool {
        self.up && self.object == Object::Absent
    }
}

/// The world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Jobs.
    pub jobs: [Job; JOBS],
    /// Members.
    pub members: [Member; MEMBERS],
    /// Faults that may still come.
    pub faults: u8,
    /// Wishes of users (cancel, delete) that may still come.
    pub wishes: u8,
    /// What was broken on the way here. There is no way on from such a state.
    pub broken: Option<crate::Invariant>,
}

impl State {
    /// The one of all states that differ only by the names of jobs and members which stands for them.
    #[must_use]
    pub fn canonical(mut self, members_differ: bool) -> Self {
        let code = self.sort();
        if members_differ {
            return self;
        }
        let mut mirrored = self.clone();
        mirrored.members.swap(0, 1);
        for job in &mut mirrored.jobs {
            job.tasks.swap(0, 1);
            job.builds.swap(0, 1);
            let mirror = |pod: &mut Pod| {
                if let Pod::Of(member) = pod {
                    *member = 1 - *member;
                }
            };
            job.pod.iter_mut().for_each(mirror);
            job.flight.iter_mut().flatten().for_each(|message| mirror(&mut message.pod));
        }
        if mirrored.sort() < code { mirrored } else { self }
    }

    /// Sorts jobs and messages, and says what then is different in states that are different.
    fn sort(&mut self) -> ([u8; MEMBERS], [u128; JOBS]) {
        let mut jobs = self.jobs.map(|mut job| {
            job.flight.sort_unstable_by_key(|message| message.map(Message::code));
            (job.code(), job)
        });
        jobs.sort_unstable_by_key(|(code, _)| *code);
        self.jobs = jobs.map(|(_, job)| job);
        (self.members.map(Member::code), jobs.map(|(code, _)| code))
    }

    /// Forgets what nothing can depend on any more. `stale_too`: also messages that will be refused, for nobody waits
    /// for the answer. `ended_too`: also jobs that have ended and about which nothing is under way.
    pub fn tidy(&mut self, stale_too: bool, ended_too: bool) {
        for job in &mut self.jobs {
            for message in &mut job.flight {
                *message = message.filter(|message| message.fresh || !stale_too);
            }
            for member in 0..MEMBERS {
                let name = u8::try_from(member).unwrap_or_default();
                if let Build::Done(attempt) | Build::Cut(attempt) = job.builds[member]
                    && job.tasks[member] == Task::None
                    && !job.runs(name, attempt)
                {
                    job.builds[member] = Build::None;
                }
            }
            let idle = job.tasks == [Task::None; MEMBERS] && job.builds == [Build::None; MEMBERS];
            let over = job.phase == Phase::Absent || job.phase.is_terminal();
            if idle && over && ended_too && job.flight == [None; IN_FLIGHT] {
                *job = Job::ABSENT;
            }
        }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.jobs.iter().for_each(|job| hasher.write_u128(job.code()));
        hasher.write(&self.members.map(Member::code));
        hasher.write(&[self.faults, self.wishes, self.broken.map_or(0, |invariant| 1 + invariant as u8)]);
    }
}

/// Writes small numbers into one: much faster to compare and to hash than the parts.
struct Code(u128);

impl Code {
    fn put(mut self, bits: u32, value: u8) -> Self {
        debug_assert!(u32::from(value) < 1 << bits, "{value} has more than {bits} bits");
        self.0 = self.0 << bits | u128::from(value);
        self
    }
}

impl Pod {
    fn code(self) -> u8 {
        match self {
            Self::Of(member) => member,
            Self::Replaced => 2,
        }
    }
}

impl Message {
    fn code(self) -> u128 {
        let write = match self.write {
            Write::Bind => 0,
            Write::Unbind => 1,
            Write::Lost => 2,
            Write::Cancel => 3,
            Write::Start => 4,
            Write::Return => 5,
            Write::Outcome(outcome) => 6 + outcome as u8,
        };
        let flags = u8::from(self.live) << 1 | u8::from(self.fresh);
        Code(1).put(4, write).put(2, self.pod.code()).put(2, self.attempts).put(2, flags).0
    }
}

impl Job {
    /// A number that no other job has.
    fn code(&self) -> u128 {
        let flags = u8::from(self.instance) << 1 | u8::from(self.cancel);
        let pod = self.pod.map_or(3, Pod::code);
        let mut code =
            Code(0).put(3, self.phase as u8).put(2, pod).put(2, self.attempts).put(4, self.solved).put(2, flags);
        for task in self.tasks {
            let (kind, attempt, outcome, flag) = match task {
                Task::None => (0, 0, 0, false),
                Task::Starting { attempts, fresh } => (1, attempts, 0, fresh),
                Task::StartUnclear(attempts) => (2, attempts, 0, false),
                Task::Solving(attempt) => (3, attempt, 0, false),
                Task::Building(attempt) => (4, attempt, 0, false),
                Task::Ending { attempt, report } => (5, attempt, 0, report),
                Task::Accounting(attempt) => (6, attempt, 0, false),
                Task::Reporting { attempt, outcome, fresh } => (7, attempt, outcome as u8, fresh),
                Task::ReportUnclear(attempt, outcome) => (8, attempt, outcome as u8, false),
                Task::Returning { fresh } => (9, 0, 0, fresh),
            };
            code = code.put(4, kind).put(2, attempt).put(2, outcome).put(1, u8::from(flag));
        }
        for build in self.builds {
            let (kind, attempt, client) = match build {
                Build::None => (0, 0, false),
                Build::Active { attempt, client } => (1, attempt, client),
                Build::Done(attempt) => (2, attempt, false),
                Build::Cut(attempt) => (3, attempt, false),
            };
            code = code.put(2, kind).put(2, attempt).put(1, u8::from(client));
        }
        for message in self.flight {
            code.0 = code.0 << 11 | message.map_or(0, Message::code);
        }
        code.0
    }
}

impl Member {
    fn code(self) -> u8 {
        let flags = u8::from(self.up) << 2 | u8::from(self.reachable) << 1 | u8::from(self.used);
        (self.object as u8) << 5 | flags << 2 | self.solves
    }
}

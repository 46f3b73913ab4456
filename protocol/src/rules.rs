//! The rules of the protocol, each of which can be left out, and what they are there to guarantee.

/// A rule of the protocol. `docs/protocol.md` says why each is there and where it lives in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// The API server refuses a write that was made from an older version of the job.
    CompareAndSwap,
    /// Admission lets a runner write only to jobs that are assigned to its own pod, and assign none to another.
    FencedByPodUid,
    /// The API server refuses to change the status of a job that has ended.
    TerminalImmutable,
    /// The API server refuses to lower the number of attempts.
    AttemptNeverDecreases,
    /// The runner solves only after *running* was acknowledged.
    RunningBeforeSolve,
    /// After an ambiguous answer the runner reads the job before it does anything else.
    ReadAgainAfterAmbiguity,
    /// A job that is Running under another instance is accounted for, never solved.
    NeverSolveRunningOfAnotherInstance,
    /// The runner accounts for jobs that run under an earlier process of its pod.
    AccountAfterRestart,
    /// While the daemon still runs a build, nothing is said about its attempt.
    AccountWaitsForTheEnd,
    /// When the connection to the daemon breaks, the runner asks the history before it says that the build is lost.
    BrokenStreamIsAccounted,
    /// A build that is stopped keeps its slot, and its outcome is not written, until the daemon has ended it.
    StopWaitsForTheEnd,
    /// The runner takes no more jobs than it has slots, whatever the operator has bound.
    RunnerEnforcesSlots,
    /// Builds that an earlier process left in the daemon take slots until they have ended.
    OldBuildsTakeSlots,
    /// A runner that is to end gives back what it has not started.
    LeavingTakesNothing,
    /// An outcome is written only while the job is Running here in that attempt.
    OutcomeNeedsSameAttempt,
    /// A job goes back to Pending without an outcome only while it is Bound.
    UnbindOnlyBeforeRunning,
    /// A pod that is to end counts as gone only when its containers have ended.
    GoneNeedsContainersEnded,
    /// The operator asks the API server itself, and not its cache, whether a pod is gone.
    VerifyGoneByRead,
    /// The operator takes jobs back from pods that are gone.
    TakeBackFromGone,
    /// A pod of an Ephemeral pool takes no job after its first.
    EphemeralOneJob,
    /// That mark outlives the runner's container.
    EphemeralMarkSurvives,
    /// A job whose cancellation is wanted is not started.
    CancelRespected,
    /// A lost attempt is followed by another only while retries are left.
    RetriesBounded,
    /// Not a rule but an assumption: when somebody says that a node is out of service, nothing runs there.
    OutOfServiceMeansOff,
}

/// What holds in every state that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// At most one Solve for each (job UID, attempt).
    OneSolve,
    /// No two attempts of a job run at a time, and none runs that the API says is over. Zombies are excepted.
    OneLiveAttempt,
    /// A daemon never runs more builds than its member has slots.
    Slots,
    /// A pod UID of an Ephemeral pool solves once.
    EphemeralOnce,
    /// The status of a job that has ended does not change.
    TerminalIsFinal,
    /// An outcome is accepted only for the attempt that runs.
    OutcomeOfThisAttempt,
    /// The number of attempts never falls.
    AttemptMonotone,
    /// A runner changes no job that is assigned to another pod or to none.
    OwnJobsOnly,
    /// No attempt starts after its cancellation was wished.
    NoStartAfterCancel,
    /// There are never more attempts than retries + 1.
    RetryBound,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::CompareAndSwap,
        Self::FencedByPodUid,
        Self::TerminalImmutable,
        Self::AttemptNeverDecreases,
        Self::RunningBeforeSolve,
        Self::ReadAgainAfterAmbiguity,
        Self::NeverSolveRunningOfAnotherInstance,
        Self::AccountAfterRestart,
        Self::AccountWaitsForTheEnd,
        Self::BrokenStreamIsAccounted,
        Self::StopWaitsForTheEnd,
        Self::RunnerEnforcesSlots,
        Self::OldBuildsTakeSlots,
        Self::LeavingTakesNothing,
        Self::OutcomeNeedsSameAttempt,
        Self::UnbindOnlyBeforeRunning,
        Self::GoneNeedsContainersEnded,
        Self::VerifyGoneByRead,
        Self::TakeBackFromGone,
        Self::EphemeralOneJob,
        Self::EphemeralMarkSurvives,
        Self::CancelRespected,
        Self::RetriesBounded,
        Self::OutOfServiceMeansOff,
    ];

    /// Its bit in a set of rules.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

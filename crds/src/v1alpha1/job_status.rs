//! Observed state of a `BuildJob`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::conditions_schema;

/// Observed state of a BuildJob. Once `phase` is Succeeded, Failed or Cancelled it never changes again; the API server refuses it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(oldSelf.phase) || !(oldSelf.phase in ['Succeeded', 'Failed', 'Cancelled']) || self == oldSelf").message("the job has ended: its status does not change any more"))]
#[x_kube(validation = Rule::new("!has(oldSelf.attempt) || (has(self.attempt) && self.attempt >= oldSelf.attempt)").message("attempt never decreases"))]
#[x_kube(validation = Rule::new("!has(self.assignedTo) || (has(self.phase) && self.phase in ['Bound', 'Running'])").message("assignedTo is set only while the job is Bound or Running"))]
pub struct BuildJobStatus {
    /// Where the job is in its life.
    #[serde(default)]
    pub phase: JobPhase,

    /// Conditions `Complete` and `Failed` for `kubectl wait`, `Reconciling` and `Stalled` for kstatus, and
    /// `NodeUnreachable` while nothing is heard of the node that the build runs on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Pool that the job waits for, or that it was bound to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pool: Option<String>,

    /// Place in the pool's queue, 1 for the next. Set while the job waits, and brought up to date when it has halved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub queue_position: Option<i32>,

    /// UID of the pod that the job is bound to. Set only while it is Bound or Running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub assigned_to: Option<String>,

    /// Name of the pod that the job is bound to, or ran on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub member: Option<String>,

    /// Number of the current or last attempt, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempt: Option<i32>,

    /// The process that runs the attempt: random for each start of a runner. A Running job is never solved by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub runner_instance: Option<String>,

    /// Every attempt that was started, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub attempts: Vec<Attempt>,

    /// The image, once it is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<BuiltImage>,

    /// Why the job failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,

    /// When it came to what.
    #[serde(default, skip_serializing_if = "Timing::is_default")]
    pub timing: Timing,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// Waits for a slot.
    #[default]
    Pending,
    /// Has a slot; the member has not taken it yet.
    Bound,
    /// The build runs.
    Running,
    /// The build succeeded.
    Succeeded,
    /// The build failed for good.
    Failed,
    /// The job was cancelled before its end.
    Cancelled,
}

impl JobPhase {
    /// Whether nothing comes after this phase.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// One attempt to build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// Pod that ran it.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// UID of that pod.
    #[schemars(length(max = 64))]
    pub pod_uid: String,
    /// `SolveRequest.Ref` of the build in the daemon's history.
    #[serde(rename = "ref")]
    #[schemars(length(max = 128))]
    pub reference: String,
    /// When the member took the job.
    pub started_at: MicroTime,
    /// When the attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// How the attempt ended: `Succeeded`, or the reason of its failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub result: Option<String>,
    /// What happened, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// A built image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuiltImage {
    /// Digest of the manifest, or of the index if there are several platforms.
    #[schemars(length(max = 128))]
    pub digest: String,
    /// Names under which the image was pushed; empty if it was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub names: Vec<String>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word for it. The error catalogue, `docs/errors.md`, has the cause and the remedy of each.
    pub reason: FailureReason,
    /// What happened, where, and what to do.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Step of the Dockerfile that failed, as BuildKit names it: `[build 2/3] RUN make`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub step: Option<String>,
    /// Where in the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<SourceLocation>,
    /// Exit code of the step's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Last lines that the step printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)))]
    pub log_tail: Vec<String>,
}

/// Place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceLocation {
    /// Path of the file in the context.
    #[schemars(length(max = 255))]
    pub file: String,
    /// Line, from 1.
    pub line: i32,
}

/// Why a job or an attempt failed: a closed list, each explained in `docs/errors.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureReason {
    /// A RUN step exited with an error.
    BuildStepFailed,
    /// The Dockerfile cannot be read or understood.
    DockerfileInvalid,
    /// The repository, the revision or a file of the context does not exist.
    ContextNotFound,
    /// The git server asks for a credential or refuses the one it got.
    ContextAccessDenied,
    /// The context could not be fetched.
    ContextFetchFailed,
    /// The registry asks for a credential and the pool has none for it.
    RegistryAuthRequired,
    /// The registry refuses the pool's credential, or the credential has not the right.
    RegistryAccessDenied,
    /// The registry or its token server cannot be reached or fails.
    RegistryUnavailable,
    /// The registry's rate limit is used up.
    RegistryRateLimited,
    /// The registry refuses to take a layer over from another repository.
    CrossRepositoryMountDenied,
    /// An image that the Dockerfile names does not exist.
    ImageNotFound,
    /// A certificate is not signed by an authority that the pool trusts.
    CertificateUntrusted,
    /// A step was killed for its use of memory.
    OutOfMemory,
    /// The cache volume is full.
    DiskFull,
    /// The daemon died or was restarted during the build.
    DaemonLost,
    /// The runner died or was restarted during the build.
    RunnerLost,
    /// The member's pod was deleted or evicted during the build.
    PodEvicted,
    /// The member's node went away during the build.
    NodeLost,
    /// The build ran longer than its timeout.
    Timeout,
    /// The job was cancelled.
    Cancelled,
    /// The pool does not allow what the job asks for.
    PolicyDenied,
    /// There is no such pool in the job's namespace.
    PoolNotFound,
    /// The pool had no member that takes builds, for as long as the job may wait, or it is being deleted.
    PoolUnavailable,
    /// A fault of buildpools or of BuildKit that none of the other reasons fits.
    Internal,
}

impl FailureReason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Self; 24] = [
        Self::BuildStepFailed,
        Self::DockerfileInvalid,
        Self::ContextNotFound,
        Self::ContextAccessDenied,
        Self::ContextFetchFailed,
        Self::RegistryAuthRequired,
        Self::RegistryAccessDenied,
        Self::RegistryUnavailable,
        Self::RegistryRateLimited,
        Self::CrossRepositoryMountDenied,
        Self::ImageNotFound,
        Self::CertificateUntrusted,
        Self::OutOfMemory,
        Self::DiskFull,
        Self::DaemonLost,
        Self::RunnerLost,
        Self::PodEvicted,
        Self::NodeLost,
        Self::Timeout,
        Self::Cancelled,
        Self::PolicyDenied,
        Self::PoolNotFound,
        Self::PoolUnavailable,
        Self::Internal,
    ];

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuildStepFailed => "BuildStepFailed",
            Self::DockerfileInvalid => "DockerfileInvalid",
            Self::ContextNotFound => "ContextNotFound",
            Self::ContextAccessDenied => "ContextAccessDenied",
            Self::ContextFetchFailed => "ContextFetchFailed",
            Self::RegistryAuthRequired => "RegistryAuthRequired",
            Self::RegistryAccessDenied => "RegistryAccessDenied",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::RegistryRateLimited => "RegistryRateLimited",
            Self::CrossRepositoryMountDenied => "CrossRepositoryMountDenied",
            Self::ImageNotFound => "ImageNotFound",
            Self::CertificateUntrusted => "CertificateUntrusted",
            Self::OutOfMemory => "OutOfMemory",
            Self::DiskFull => "DiskFull",
            Self::DaemonLost => "DaemonLost",
            Self::RunnerLost => "RunnerLost",
            Self::PodEvicted => "PodEvicted",
            Self::NodeLost => "NodeLost",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::PolicyDenied => "PolicyDenied",
            Self::PoolNotFound => "PoolNotFound",
            Self::PoolUnavailable => "PoolUnavailable",
            Self::Internal => "Internal",
        }
    }

    /// Whether the fault lies in the machines and not in the build, so that another attempt may succeed. Registry and
    /// context errors are not among them: BuildKit has retried those itself.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::DaemonLost | Self::RunnerLost | Self::PodEvicted | Self::NodeLost)
    }
}

/// When a job came to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// When a slot was found for the current or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_at: Option<MicroTime>,
    /// When the current or last attempt was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
}

impl Timing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::FailureReason;

    #[test]
    fn every_reason_is_in_the_list_once_and_explained() {
        let catalogue = include_str!("../../../docs/errors.md");
        for (index, reason) in FailureReason::ALL.iter().enumerate() {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert!(!FailureReason::ALL[..index].contains(reason), "{reason:?} stands twice in ALL");
            let rows = catalogue.lines().filter(|line| line.starts_with(&format!("| `{}` |", reason.as_str()))).count();
            // PoolNotFound is also a reason to wait.
            assert!(
                rows == 1 || *reason == FailureReason::PoolNotFound,
                "docs/errors.md has {rows} rows for {reason:?}"
            );
        }
    }
}

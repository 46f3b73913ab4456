//! How a BuildPool changes: the replacement of its members, and its deletion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the running builds of a pool that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenDeleted {
    /// They are finished; the pool goes when the last has ended.
    #[default]
    Finish,
    /// They are cancelled.
    Cancel,
}

/// Where a member is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MemberPhase {
    /// Its pod has no node yet.
    Pending,
    /// Its containers are being started.
    Starting,
    /// It takes builds.
    Ready,
    /// It is to be replaced: it finishes its builds and takes no more.
    Draining,
    /// Its pod is being stopped; builds that run are finished.
    Terminating,
    /// Nothing is heard of its node.
    Unreachable,
    /// Its BuildKit is older than the oldest that is supported: it takes no builds.
    Unsupported,
}

impl MemberPhase {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Starting,
        Self::Ready,
        Self::Draining,
        Self::Terminating,
        Self::Unreachable,
        Self::Unsupported,
    ];

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::Terminating => "Terminating",
            Self::Unreachable => "Unreachable",
            Self::Unsupported => "Unsupported",
        }
    }
}

/// The replacement of members that run an older form of the pool, one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolUpgrade {
    /// When it began.
    pub started_at: Time,

    /// Members of the newest form that are ready.
    pub updated: i32,

    /// Members that run an older form.
    pub outdated: i32,

    /// The member that is being replaced: it gets no new builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<DrainingMember>,
}

/// A member that finishes its builds in order to be replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainingMember {
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// UID of its pod.
    #[schemars(length(max = 64))]
    pub uid: String,

    /// Since when it gets no new builds.
    pub since: Time,
}

//! `BuildPool`: a tenant's own BuildKit daemons, with their cache and credentials.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::NetworkSettings;
use super::pod::PodSettings;
use super::pool_cache::{CacheVolume, MemberCache};
use super::pool_change::{MemberPhase, PoolUpgrade, WhenDeleted};
use super::shared::{LocalReference, conditions_schema, duration_schema, half_life_schema, ttl_schema, wait_schema};

/// Desired state of a BuildPool.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "buildpools.dev",
    version = "v1alpha1",
    kind = "BuildPool",
    namespaced,
    status = "BuildPoolStatus",
    shortname = "bp",
    category = "buildpools",
    derive = "PartialEq",
    derive = "Default",
    doc = "BuildPool is a set of rootless BuildKit daemons for one tenant: their cache volumes, their registry credentials and nobody else's.",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must have at most 40 characters, begin with a letter and hold only lower-case letters, digits and '-', because pods and Services are named after the pool"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the pool takes builds"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.memberSummary", description = "Members that are ready, of those that should run"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version of BuildKit"),
    printcolumn(name = "Cache", type_ = "string", json_path = ".spec.cache.size", description = "Cache volume of a member"),
    printcolumn(name = "Upgrading", type_ = "string", json_path = ".status.conditions[?(@.type==\"Upgrading\")].reason", description = "How far the replacement of members is", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BuildPoolSpec {
    /// Trust class of the pool. Builds of a Shared pool share one warm daemon, its cache and its credentials: the pool
    /// is one trust domain.
    #[serde(default)]
    pub class: PoolClass,

    /// How the daemon is confined. Cannot be changed: the cache's files belong to other users in the other profile.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("profile cannot be changed, because the cache's files belong to other users in the other profile: create a new pool"))]
    pub profile: PoolProfile,

    /// Number of members and of builds in each.
    #[serde(default)]
    pub scaling: Scaling,

    /// Longest time that a build may run. It is also the time that a member gets to finish its builds when it is
    /// stopped (`terminationGracePeriodSeconds`), so that no rollout kills a build. A change reaches a member's grace
    /// period when the member is replaced.
    #[serde(default = "default_max_build_duration")]
    #[schemars(schema_with = "duration_schema")]
    pub max_build_duration: Duration,

    /// Time that a member gets to finish its builds when it is to be replaced, until condition `Upgrading` says which
    /// builds hold the replacement up. No build is ended by it. No limit when absent: builds end after
    /// `maxBuildDuration` at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub drain_timeout: Option<Duration>,

    /// What becomes of the running builds when the pool is deleted. May be changed while the deletion waits for them.
    #[serde(default)]
    pub when_deleted: WhenDeleted,

    /// How the jobs that wait share the pool. Without it they are one group: first in, first out within a priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_share: Option<FairShare>,

    /// What jobs get that do not say it themselves.
    #[serde(default, skip_serializing_if = "JobDefaults::is_default")]
    pub job_defaults: JobDefaults,

    /// How many succeeded jobs are kept; the oldest are deleted. No limit when absent. Jobs that have an owner, or that
    /// Helm, Flux or Argo CD manage, are neither counted nor deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub successful_jobs_history_limit: Option<i32>,

    /// The same for jobs that failed or were cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub failed_jobs_history_limit: Option<i32>,

    /// Cache volume of each member.
    pub cache: CacheVolume,

    /// Secrets of type `kubernetes.io/dockerconfigjson` with the registry credentials of this pool. The kubelet mounts
    /// them beside the daemon, never into it; a Secret that does not exist yet is mounted when it appears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.secretRef.name == a.secretRef.name))").message("names a Secret twice: list each once"))]
    pub credentials: Vec<PoolCredential>,

    /// Settings of single registries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub registries: Vec<RegistrySettings>,

    /// Where the members may connect to.
    #[serde(default, skip_serializing_if = "NetworkSettings::is_default")]
    pub network: NetworkSettings,

    /// The daemon.
    #[serde(default, skip_serializing_if = "BuildKitSettings::is_default")]
    pub buildkit: BuildKitSettings,

    /// The members' pods.
    #[serde(default, skip_serializing_if = "PodSettings::is_default")]
    pub pod: PodSettings,
}

impl Default for BuildPoolSpec {
    fn default() -> Self {
        Self {
            class: PoolClass::default(),
            profile: PoolProfile::default(),
            scaling: Scaling::default(),
            max_build_duration: default_max_build_duration(),
            drain_timeout: None,
            when_deleted: WhenDeleted::default(),
            fair_share: None,
            job_defaults: JobDefaults::default(),
            successful_jobs_history_limit: None,
            failed_jobs_history_limit: None,
            cache: CacheVolume::default(),
            credentials: Vec::new(),
            registries: Vec::new(),
            network: NetworkSettings::default(),
            buildkit: BuildKitSettings::default(),
            pod: PodSettings::default(),
        }
    }
}

/// Trust class of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolClass {
    /// Warm daemons that one tenant's builds share.
    #[default]
    Shared,
}

/// How the daemon is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolProfile {
    /// buildkitd as user 1000 in a user namespace of its own making (rootlesskit). Works on any node. The builds of a
    /// pool that run at the same time see each other's processes.
    #[default]
    Rootless,
    /// buildkitd as root of the pod's own user namespace (`hostUsers: false`), unprivileged on the node. A RUN step sees
    /// its own processes only. Needs nodes with user namespaces for pods: Kubernetes 1.33, containerd 2.0 or CRI-O 1.25,
    /// a file system of the cache that can be mounted with mapped IDs (ext4, xfs).
    UserNamespace,
}

/// Number of members and of builds in each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Members that always run.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    pub min_members: i32,

    /// Builds that one member runs at a time. A change takes effect at once.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 64))]
    pub builds_per_member: i32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self { min_members: one(), builds_per_member: two() }
    }
}

/// How the jobs that wait share the pool: of two groups, the one that has had less build time for its weight is next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FairShare {
    /// Label of the jobs whose value is their group. Jobs without it are a group too.
    #[schemars(length(min = 1, max = 317))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("must be the name of a label, for example team or example.com/team"))]
    pub label: String,

    /// Weights of groups, by the label's value: a group of weight 2 gets twice the build time of one of weight 1, which
    /// is the weight of groups that are not listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 63 && self[k] >= 1 && self[k] <= 1000)").message("must be weights from 1 to 1000 by value of the label"))]
    pub weights: BTreeMap<String, i32>,

    /// Time after which build time of the past counts half.
    #[serde(default = "default_half_life")]
    #[schemars(schema_with = "half_life_schema")]
    pub half_life: Duration,
}

/// What jobs get that do not say it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobDefaults {
    /// Time that a build may run. The pool's `maxBuildDuration` when absent, and never more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,

    /// Time that a job may wait for its start. No end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "wait_schema")]
    pub queue_timeout: Option<Duration>,

    /// How often a build is begun again after an infrastructure fault. 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub infra_retries: Option<i32>,

    /// Time after its end at which a job is deleted. Never when absent. Jobs that have an owner, or that Helm, Flux or
    /// Argo CD manage, are deleted by their own `ttlAfterFinished` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ttl_schema")]
    pub ttl_after_finished: Option<Duration>,
}

impl JobDefaults {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A mounted registry Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCredential {
    /// Secret of type `kubernetes.io/dockerconfigjson` in the pool's namespace.
    pub secret_ref: LocalReference,
}

/// Settings of one registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySettings {
    /// Registry as it stands in image names: `host` or `host:port`.
    #[schemars(length(min = 1, max = 261))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$')").message("must be a registry's host or host:port, without scheme or path, for example registry.example.com:5000"))]
    pub host: String,

    /// Certificate authority of this registry and of its token server.
    pub ca_ref: CaReference,
}

/// A PEM bundle in a ConfigMap of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaReference {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("must be the name of a ConfigMap in the same namespace"))]
    pub config_map: String,

    /// Key in the ConfigMap.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("must be a key of a ConfigMap: letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

/// The daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildKitSettings {
    /// Image of buildkitd: for profile Rootless its rootless variant (`moby/buildkit:<version>-rootless`), for
    /// UserNamespace the plain one. The operator's default for the profile when absent. Takes effect when a member is
    /// replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^[^\\\\s]+$')").message("must be an image reference without spaces"))]
    pub image: Option<String>,
}

impl BuildKitSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Observed state of a BuildPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildPoolStatus {
    /// Generation of the spec that the operator saw last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `Upgrading`, `CredentialsReady`, `BuildKitUpToDate`, `CacheHealthy`; for kstatus `Reconciling` and
    /// `Stalled`, which are there only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Members whose pods are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_members: Option<i32>,

    /// Members that are ready, of those that should run: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub member_summary: Option<String>,

    /// Version of the members' BuildKit; the lowest if they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,

    /// How far the replacement of members is that run an older form of the pool; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<PoolUpgrade>,

    /// The members. A runner writes its own entry and no other; the operator writes their phases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".into()]))]
    pub members: Vec<PoolMember>,
}

/// A member: what its runner says of it, and its phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolMember {
    /// UID of the member's pod.
    #[schemars(length(max = 64))]
    pub uid: String,

    /// Name of the member's pod.
    #[schemars(length(max = 253))]
    pub pod: String,

    /// Where the member is in its life. Written by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<MemberPhase>,

    /// Version of the daemon, as it reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,

    /// Snapshotter of the daemon. `native` copies every layer and is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub snapshotter: Option<String>,

    /// Builds that run now.
    #[serde(default)]
    pub builds: i32,

    /// Secrets of `spec.credentials` that do not exist, or have no key `.dockerconfigjson`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub missing_secrets: Vec<String>,
    /// The member's cache and the volume that it lies on. Absent until the daemon has been asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<MemberCache>,

    /// Problems with the mounted credentials: which Secret, which entry, what is wrong. Never a credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub warnings: Vec<String>,
}

fn default_max_build_duration() -> Duration {
    std::time::Duration::from_hours(1).into()
}

fn default_half_life() -> Duration {
    std::time::Duration::from_hours(1).into()
}

fn default_ca_key() -> String {
    "ca.crt".into()
}

fn one() -> i32 {
    1
}

fn two() -> i32 {
    2
}

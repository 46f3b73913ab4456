//! `BuildJob`: one build.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::job_status::BuildJobStatus;
use super::shared::{LocalReference, duration_schema, selector_schema, ttl_schema, wait_schema};

/// What to build, and where. Immutable but for `cancel`, `priority` and `ttlAfterFinished`: another build is another
/// BuildJob.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "buildpools.dev",
    version = "v1alpha1",
    kind = "BuildJob",
    namespaced,
    status = "BuildJobStatus",
    shortname = "bj",
    category = "buildpools",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".status.assignedTo",
    selectable = ".status.phase",
    doc = "BuildJob is one image build in a BuildPool of the same namespace.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.pool"),
    printcolumn(name = "Member", type_ = "string", json_path = ".status.member"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.failure.reason",
        description = "Why it failed"
    ),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.image.digest", priority = "1"),
    printcolumn(
        name = "Position",
        type_ = "integer",
        json_path = ".status.queuePosition",
        description = "Place in the pool's queue",
        priority = "1"
    ),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.context == oldSelf.context && has(self.poolRef) == has(oldSelf.poolRef) && (!has(self.poolRef) || self.poolRef == oldSelf.poolRef) && has(self.poolSelector) == has(oldSelf.poolSelector) && (!has(self.poolSelector) || self.poolSelector == oldSelf.poolSelector) && has(self.whenPoolMissing) == has(oldSelf.whenPoolMissing) && (!has(self.whenPoolMissing) || self.whenPoolMissing == oldSelf.whenPoolMissing) && has(self.dockerfile) == has(oldSelf.dockerfile) && (!has(self.dockerfile) || self.dockerfile == oldSelf.dockerfile) && has(self.target) == has(oldSelf.target) && (!has(self.target) || self.target == oldSelf.target) && has(self.args) == has(oldSelf.args) && (!has(self.args) || self.args == oldSelf.args) && has(self.output) == has(oldSelf.output) && (!has(self.output) || self.output == oldSelf.output) && has(self.cacheKey) == has(oldSelf.cacheKey) && (!has(self.cacheKey) || self.cacheKey == oldSelf.cacheKey) && has(self.timeout) == has(oldSelf.timeout) && (!has(self.timeout) || self.timeout == oldSelf.timeout) && has(self.queueTimeout) == has(oldSelf.queueTimeout) && (!has(self.queueTimeout) || self.queueTimeout == oldSelf.queueTimeout) && has(self.infraRetries) == has(oldSelf.infraRetries) && (!has(self.infraRetries) || self.infraRetries == oldSelf.infraRetries)").message("spec is immutable but for cancel, priority and ttlAfterFinished: create a new BuildJob for another build"))]
#[x_kube(validation = Rule::new("!(has(self.poolRef) && has(self.poolSelector))").message("must have at most one of poolRef and poolSelector; with neither, the namespace's default pool builds"))]
#[x_kube(validation = Rule::new("!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)").message("cancel cannot be taken back: create a new BuildJob to build again"))]
#[x_kube(validation = Rule::new("!has(self.context.inline) || self.?dockerfile.?inline.hasValue() || self.context.inline.files.exists(f, f.path == self.?dockerfile.?path.orValue('Dockerfile'))").message("context.inline.files has no Dockerfile: add a file with the path that dockerfile.path names (default Dockerfile), or set dockerfile.inline"))]
pub struct BuildJobSpec {
    /// Pool that runs the build, in the same namespace. Without it and without `poolSelector`, the namespace's default
    /// pool does: the one with the annotation `buildpools.dev/is-default-pool: "true"` (of several the youngest), else
    /// the only pool that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ref: Option<LocalReference>,

    /// Pools that may run the build, by their labels, in the same namespace. Of several, the one whose cache has seen
    /// this build and that has a free slot; else the one that is least loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub pool_selector: Option<LabelSelector>,

    /// What becomes of the job while there is no pool for it: none of that name, none that matches, or one that is being
    /// deleted.
    #[serde(default, skip_serializing_if = "WhenPoolMissing::is_default")]
    pub when_pool_missing: WhenPoolMissing,

    /// Files of the build.
    pub context: BuildContext,

    /// The Dockerfile; `Dockerfile` at the root of the context when absent.
    #[serde(default, skip_serializing_if = "Dockerfile::is_default")]
    pub dockerfile: Dockerfile,

    /// Stage to build; the last when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9][-a-zA-Z0-9_.]*$')").message("must be the name of a stage of the Dockerfile"))]
    pub target: Option<String>,

    /// Build arguments (`ARG`). They are visible in the image's history and in this object: never a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 128 && k.matches('^[a-zA-Z_][a-zA-Z0-9_]*$'))").message("holds a name that cannot be an ARG: letters, digits and '_', at most 128 characters"))]
    #[x_kube(validation = Rule::new("self.all(k, self[k].size() <= 4096)").message("holds a value of more than 4096 characters"))]
    pub args: BTreeMap<String, String>,

    /// Where the result goes. Without it the build runs, and what it makes stays in the cache only.
    #[serde(default, skip_serializing_if = "Output::is_default")]
    pub output: Output,

    /// What the build's cache is found by: builds with the same key go to the same member, if it has room. Derived from
    /// repository, path, Dockerfile and target when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cache_key: Option<String>,

    /// Jobs of higher priority are built first. From -100 to 100, 0 when absent; may be changed while the job waits.
    /// A priority that got no slot for a minute counts one more, so that none waits for ever.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,

    /// Time that the job may wait for its start, counted from its creation, or from the loss of its last attempt.
    /// The pool's `jobDefaults.queueTimeout` when absent, else no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "wait_schema")]
    pub queue_timeout: Option<Duration>,

    /// Time that the build may run, counted from its start on a member. The pool's `jobDefaults.timeout` when absent,
    /// else its `maxBuildDuration`; it cannot be longer than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,

    /// How often the build is begun again after it was lost to a fault that is not its own: a daemon, pod or node that
    /// went away. The pool's `jobDefaults.infraRetries` when absent, else 2. A build that ran out of memory is begun
    /// again once at most, alone on its member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub infra_retries: Option<i32>,

    /// Time after its end at which the job is deleted. The pool's `jobDefaults.ttlAfterFinished` when absent, else never.
    /// Leave it out for jobs that GitOps applies: a deleted job would be applied, and built, again. May be changed at any
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ttl_schema")]
    pub ttl_after_finished: Option<Duration>,

    /// Set it to true to end the job as Cancelled: at once if it waits, else as soon as its build has been stopped. It
    /// cannot be taken back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cancel: bool,
}

/// Fields of the spec that may change; every other one is in the rule of [`BuildJobSpec`].
pub const MUTABLE_FIELDS: [&str; 3] = ["cancel", "priority", "ttlAfterFinished"];

/// What becomes of a job while there is no pool for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenPoolMissing {
    /// It fails, after half a minute in which a pool that is applied together with it may appear.
    #[default]
    Fail,
    /// It waits, for as long as `queueTimeout` says.
    Wait,
}

impl WhenPoolMissing {
    // serde's `skip_serializing_if` hands over a reference; so do the two below.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Files of the build: exactly one of `git` and `inline`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.git) != has(self.inline)").message("must have exactly one of git and inline"))]
pub struct BuildContext {
    /// A git repository, fetched by the pool's daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitContext>,

    /// Small text files, given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineContext>,
}

/// A git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitContext {
    /// URL of the repository. BuildKit takes an HTTP URL for a repository only if its path ends with `.git`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/]+/[^#?\\\\s]+[.]git$')").message("must be an https:// or http:// URL that ends with .git, for example https://git.example.com/team/app.git; revision and directory go into ref and path"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/]*@')").message("must not hold a user or password: they would be visible to everybody who may read this object"))]
    pub url: String,

    /// Branch, tag or commit; the default branch of the repository when absent.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[^-:#\\\\s][^:#\\\\s]*$')").message("must be a branch, a tag or a commit, without spaces, ':' and '#'"))]
    pub reference: Option<String>,

    /// Directory of the repository that is the context; its root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('[:#\\\\s\\\\\\\\]') && !self.split('/').exists(p, p == '..')").message("must be a relative path inside the repository, without '..', spaces, ':' and '#'"))]
    pub path: Option<String>,
}

/// Small text files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineContext {
    /// The files.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub files: Vec<InlineFile>,
}

/// A text file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineFile {
    /// Path in the context.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.endsWith('/') && !self.contains('//') && !self.split('/').exists(p, p == '..' || p == '.')").message("must be a relative path of a file, without '.' and '..'"))]
    pub path: String,

    /// Content.
    #[schemars(length(max = 65536))]
    pub content: String,
}

/// The Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.path) && has(self.inline))").message("must have at most one of path and inline"))]
pub struct Dockerfile {
    /// Path in the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(p, p == '..')").message("must be a relative path inside the context, without '..'"))]
    pub path: Option<String>,

    /// The Dockerfile itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub inline: Option<String>,
}

impl Dockerfile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the result goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// An image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOutput>,
}

impl Output {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOutput {
    /// Names of the image: `registry/repository:tag`. The tag is `latest` when absent.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$'))").message("must hold image names of the form registry/repository:tag, the repository in lower case and without a digest, for example registry.example.com/team/app:1.2"))]
    pub names: Vec<String>,

    /// Whether the image is pushed under all its names.
    #[serde(default = "yes")]
    pub push: bool,
}

impl Default for ImageOutput {
    fn default() -> Self {
        Self { names: Vec::new(), push: yes() }
    }
}

fn yes() -> bool {
    true
}

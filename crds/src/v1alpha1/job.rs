//! `BuildJob`: one build.

use std::collections::BTreeMap;

use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::job_status::BuildJobStatus;
use super::shared::{LocalReference, duration_schema};

/// What to build. Immutable: another build is another BuildJob.
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
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.poolRef.name"),
    printcolumn(name = "Member", type_ = "string", json_path = ".status.member"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.failure.reason",
        description = "Why it failed"
    ),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.image.digest", priority = "1"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec is immutable: create a new BuildJob for another build"))]
#[x_kube(validation = Rule::new("!has(self.context.inline) || self.?dockerfile.?inline.hasValue() || self.context.inline.files.exists(f, f.path == self.?dockerfile.?path.orValue('Dockerfile'))").message("context.inline.files has no Dockerfile: add a file with the path that dockerfile.path names (default Dockerfile), or set dockerfile.inline"))]
pub struct BuildJobSpec {
    /// Pool that runs the build, in the same namespace.
    pub pool_ref: LocalReference,

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

    /// Time that the build may run, counted from its start on a member. The pool's `maxBuildDuration` when absent; it
    /// cannot be longer than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
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

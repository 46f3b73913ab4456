//! The ideal dispatcher: the least that gets a job from the API to a daemon.
//!
//! One process that watches, binds by compare-and-swap, marks as running by compare-and-swap, solves and writes the
//! outcome by compare-and-swap: no cache, no queue, no policy, no second process to hand over to, no fence at admission.
//! It writes the same objects with the same transitions and builds with the same client in the same daemon, so what
//! buildpools takes longer is what its own design costs. Its jobs are of a copy of the definition under another group,
//! so that nobody else touches them.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use buildpools_buildkit::{Access, Build, BuildResult, Context, Credentials, Daemon, Dockerfile, Output, Trust};
use buildpools_crds::lifecycle::{self, Member, Outcome, Policy};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobSpec, BuildJobStatus, BuiltImage, JobPhase};
use buildpools_crds::{crd, names, patch};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::Object;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::{JoinHandle, JoinSet};

use super::site::docker_config;
use crate::harness::{Environment, wait};

/// A job of the ideal dispatcher: a BuildJob under another name.
pub type IdealJob = Object<BuildJobSpec, BuildJobStatus>;

const GROUP: &str = "bench.buildpools.dev";
const KIND: &str = "IdealJob";
const PLURAL: &str = "idealjobs";

/// How [`IdealJob`]s are addressed.
pub fn resource() -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: format!("{GROUP}/v1alpha1"),
        kind: KIND.to_owned(),
        plural: PLURAL.to_owned(),
    }
}

/// The definition: BuildJob's, renamed.
fn definition() -> CustomResourceDefinition {
    let mut definition = crd::build_job();
    definition.metadata.name = Some(format!("{PLURAL}.{GROUP}"));
    GROUP.clone_into(&mut definition.spec.group);
    let names = &mut definition.spec.names;
    KIND.clone_into(&mut names.kind);
    PLURAL.clone_into(&mut names.plural);
    names.singular = Some(KIND.to_lowercase());
    names.list_kind = None;
    names.short_names = None;
    names.categories = None;
    definition
}

/// Installs the definition.
///
/// # Errors
/// When the API refuses it or it is not established in time.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = definition();
    let name = definition.name_any();
    match api.create(&PostParams::default(), &definition).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        result => drop(result?),
    }
    wait::until(&api, &name, "the definition is established", wait::SOON, |crd| {
        let conditions = crd.and_then(|crd| crd.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True")
    })
    .await?;
    // Established a moment before it is served.
    let jobs: Api<IdealJob> = Api::all_with(client.clone(), &resource());
    wait::poll("the definition is served", wait::SOON, async || {
        Ok(jobs.list(&ListParams::default().limit(1)).await.ok())
    })
    .await?;
    Ok(())
}

/// Removes the definition.
///
/// # Errors
/// When the API refuses it.
pub async fn uninstall(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    match api.delete(&definition().name_any(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).map_err(Into::into),
    }
}

/// How the dispatcher has something built.
pub type Solve = Arc<dyn Fn(Build) -> BoxFuture<'static, anyhow::Result<BuildResult>> + Send + Sync>;

/// The dispatcher.
pub struct Dispatcher {
    jobs: Api<IdealJob>,
    /// The pod that it pretends to be.
    member: Member,
    solve: Solve,
}

/// Dispatches the namespace's [`IdealJob`]s to this daemon until the result is dropped.
///
/// # Errors
/// When the registry's authority cannot be read.
pub fn start(environment: &Environment, namespace: &str, daemon: Daemon, member: Member) -> anyhow::Result<Running> {
    let mut credentials = Credentials::default();
    let mut trust = Trust::default();
    let warnings = credentials.add_docker_config("benchmark", docker_config(environment).as_bytes());
    anyhow::ensure!(warnings.is_empty(), "the login cannot be used: {warnings:?}");
    let ca = std::fs::read(&environment.cluster.ca)?;
    if let Err(warning) = trust.add_host(&environment.cluster.registry, &ca) {
        anyhow::bail!("the registry's authority cannot be used: {warning}");
    }
    let access = Access { credentials: Arc::new(credentials), trust: Arc::new(trust), ..Access::default() };
    let jobs = Api::namespaced_with(environment.client.clone(), namespace, &resource());
    let solve: Solve = Arc::new(move |build| {
        let (daemon, access) = (daemon.clone(), access.clone());
        async move { Ok(daemon.build(&build, &access, |_| {}).await?) }.boxed()
    });
    Ok(Arc::new(Dispatcher::new(jobs, member, solve)).start())
}

impl Dispatcher {
    /// For the jobs of this API, built like this, in the name of this pod.
    pub fn new(jobs: Api<IdealJob>, member: Member, solve: Solve) -> Self {
        Self { jobs, member, solve }
    }

    /// Dispatches every job that there is and that comes, until the result is dropped.
    pub fn start(self: Arc<Self>) -> Running {
        Running(tokio::spawn(self.run()))
    }

    async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut at_work = JoinSet::new();
        let mut known = HashSet::new();
        loop {
            let list = self.jobs.list(&ListParams::default()).await?;
            let version = list.metadata.resource_version.clone().context("a list has a version")?;
            for job in list.items {
                self.begin(job, &mut known, &mut at_work);
            }
            let parameters = WatchParams::default().fields("status.phase=Pending");
            let mut watch = Box::pin(self.jobs.watch(&parameters, &version).await?);
            // It ends after some minutes, and is then started again.
            loop {
                tokio::select! {
                    event = watch.try_next() => match event? {
                        Some(WatchEvent::Added(job)) => self.begin(job, &mut known, &mut at_work),
                        Some(WatchEvent::Error(_)) | None => break,
                        Some(_) => {}
                    },
                    Some(done) = at_work.join_next() => done??,
                }
            }
        }
    }

    /// Every job at once: there are no slots.
    fn begin(self: &Arc<Self>, job: IdealJob, known: &mut HashSet<String>, at_work: &mut JoinSet<anyhow::Result<()>>) {
        if known.insert(job.uid().unwrap_or_default()) {
            let dispatcher = self.clone();
            at_work.spawn(async move { Box::pin(dispatcher.take(job)).await });
        }
    }

    /// Takes a job from its creation to its outcome.
    ///
    /// # Errors
    /// When the build fails or somebody else writes the job.
    pub async fn take(&self, job: IdealJob) -> anyhow::Result<()> {
        let uid = job.uid().context("a job has a UID")?;
        let status = job.status.clone().unwrap_or_default();
        if status.phase != JobPhase::Pending {
            return Ok(());
        }
        let pool = job.spec.pool_ref.as_ref().map_or_else(String::new, |pool| pool.name.clone());
        let next = lifecycle::bind(&status, &pool, &self.member, Timestamp::now())?;
        let job = self.swap(job, &next).await?;
        let status = job.status.clone().unwrap_or_default();
        let next = lifecycle::start(&status, &uid, &self.member, "ideal", Timestamp::now())?;
        let job = self.swap(job, &next).await?;
        let request = build(&job.spec, names::attempt_ref(&uid, 1))?;
        let names = request.output.as_ref().map(|output| output.names.clone()).unwrap_or_default();
        let built = (self.solve)(request).await?;
        let outcome = Outcome::Succeeded(built.digest.map(|digest| BuiltImage { digest, names }));
        let status = job.status.clone().unwrap_or_default();
        let next = lifecycle::finish(&status, &self.member.uid, &outcome, Policy::default(), Timestamp::now())?;
        self.swap(job, &next).await?;
        Ok(())
    }

    async fn swap(&self, job: IdealJob, next: &BuildJobStatus) -> anyhow::Result<IdealJob> {
        let name = job.name_any();
        let job = BuildJob { metadata: job.metadata, spec: job.spec, status: job.status };
        let patch = Patch::Merge(patch::job_status(&job, next)?);
        Ok(self.jobs.patch_status(&name, &PatchParams::default(), &patch).await?)
    }
}

/// As the runner translates it.
fn build(spec: &BuildJobSpec, reference: String) -> anyhow::Result<Build> {
    let inline = spec.context.inline.as_ref().context("the benchmark's jobs have inline files")?;
    let files = inline.files.iter().map(|file| (file.path.clone(), file.content.clone().into_bytes()));
    Ok(Build {
        reference,
        context: Context::Inline(files.collect()),
        dockerfile: Dockerfile::Path("Dockerfile".to_owned()),
        target: None,
        build_args: std::collections::BTreeMap::new(),
        output: spec.output.image.as_ref().map(|image| Output { names: image.names.clone(), push: image.push }),
    })
}

/// A dispatcher at work; dropping it ends it.
pub struct Running(JoinHandle<anyhow::Result<()>>);

impl Running {
    /// Why it ended, if it did.
    pub async fn failure(&mut self) -> anyhow::Error {
        match (&mut self.0).await {
            Ok(Ok(())) => anyhow::anyhow!("the ideal dispatcher ended"),
            Ok(Err(error)) => error.context("the ideal dispatcher failed"),
            Err(error) => anyhow::Error::new(error).context("the ideal dispatcher panicked"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_differs_by_its_names_only() {
        let (copy, original) = (definition(), crd::build_job());
        assert_eq!(copy.spec.versions, original.spec.versions);
        assert_eq!(copy.metadata.name.as_deref(), Some("idealjobs.bench.buildpools.dev"));
        assert_ne!(copy.spec.group, original.spec.group);
    }
}

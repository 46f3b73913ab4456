//! Pools and jobs of a test, with what every test needs already in them.

use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Patch, PatchParams, PostParams};

use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::{
    BuildJob, BuildJobSpec, BuildJobStatus, BuildPool, BuildPoolSpec, CaReference, EgressPort, EgressRule, GitContext,
    ImageOutput, InlineContext, InlineFile, JobPhase, LocalReference, PoolCredential, Protocol, RegistrySettings,
};

use super::tenant::{CA, LOGIN};
use super::{Tenant, wait};
use crate::cluster::layout::{REGISTRY_PORT, TOKEN_PORT};

/// A pool of a test.
pub struct PoolBuilder<'a> {
    tenant: &'a Tenant,
    pool: BuildPool,
}

impl<'a> PoolBuilder<'a> {
    pub(super) fn new(tenant: &'a Tenant, name: &str) -> Self {
        let mut spec = BuildPoolSpec::default();
        spec.cache.size = "1Gi".into();
        spec.max_build_duration = Duration::from_mins(5).into();
        spec.credentials = vec![PoolCredential { secret_ref: LocalReference { name: LOGIN.into() } }];
        spec.registries = vec![RegistrySettings {
            host: tenant.environment.cluster.registry.clone(),
            ca_ref: CaReference { config_map: CA.into(), key: "ca.crt".into() },
        }];
        spec.network.egress = Some(vec![tenant.servers()]);
        Self { tenant, pool: BuildPool::new(name, spec) }
    }

    /// Changes the spec.
    #[must_use]
    pub fn spec(mut self, change: impl FnOnce(&mut BuildPoolSpec)) -> Self {
        change(&mut self.pool.spec);
        self
    }

    /// The object, not yet created.
    pub fn object(self) -> BuildPool {
        self.pool
    }

    /// Creates it.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn create(self) -> anyhow::Result<BuildPool> {
        Ok(self.tenant.pools().create(&PostParams::default(), &self.pool).await?)
    }

    /// Creates it and waits until all members are ready.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn create_ready(self) -> anyhow::Result<BuildPool> {
        let tenant = self.tenant;
        let pool = self.create().await?;
        let name = pool.metadata.name.unwrap_or_default();
        let members = pool.spec.scaling.min_members;
        wait::until(&tenant.pools(), &name, "the pool is ready", wait::BUILD, |pool| {
            pool.and_then(|pool| pool.status.as_ref()).is_some_and(|status| {
                conditions::is_true(&status.conditions, conditions::READY) && status.ready_members == Some(members)
            })
        })
        .await?
        .context("the pool exists")
    }
}

/// A job of a test.
pub struct JobBuilder<'a> {
    tenant: &'a Tenant,
    job: BuildJob,
}

impl<'a> JobBuilder<'a> {
    pub(super) fn new(tenant: &'a Tenant, name: &str, pool: &str) -> Self {
        let spec = BuildJobSpec { pool_ref: Some(LocalReference { name: pool.into() }), ..BuildJobSpec::default() };
        Self { tenant, job: BuildJob::new(name, spec) }
    }

    /// Changes the spec.
    #[must_use]
    pub fn spec(mut self, change: impl FnOnce(&mut BuildJobSpec)) -> Self {
        change(&mut self.job.spec);
        self
    }

    /// Builds this Dockerfile, with nothing beside it in the context.
    #[must_use]
    pub fn inline(self, dockerfile: &str) -> Self {
        self.files(&[("Dockerfile", dockerfile)])
    }

    /// Builds these files.
    #[must_use]
    pub fn files(mut self, files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, content)| InlineFile { path: (*path).to_owned(), content: (*content).to_owned() })
            .collect();
        self.job.spec.context.inline = Some(InlineContext { files });
        self
    }

    /// Builds a repository of the cluster's git server, branch `main`.
    #[must_use]
    pub fn git(mut self, repository: &str) -> Self {
        let url = format!("{}/{repository}", self.tenant.environment.cluster.git_url);
        self.job.spec.context.git = Some(GitContext { url, reference: Some("main".into()), path: None });
        self
    }

    /// Pushes the image under this name below the tenant's repositories.
    #[must_use]
    pub fn push(mut self, name: &str) -> Self {
        self.job.spec.output.image = Some(ImageOutput { names: vec![self.tenant.image(name)], push: true });
        self
    }

    /// The object, not yet created.
    pub fn object(self) -> BuildJob {
        self.job
    }

    /// Creates it.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn create(self) -> anyhow::Result<BuildJob> {
        Ok(self.tenant.jobs().create(&PostParams::default(), &self.job).await?)
    }

    /// Creates it and waits until it has ended.
    ///
    /// # Errors
    /// When the API refuses it or it does not end.
    pub async fn run(self) -> anyhow::Result<BuildJobStatus> {
        let tenant = self.tenant;
        let job = self.create().await?;
        tenant.ended(&job.metadata.name.unwrap_or_default()).await
    }
}

impl Tenant {
    /// Registry, token server and git server of the cluster, as destinations of a pool: all that its builds need.
    pub fn servers(&self) -> EgressRule {
        let ports = [443, REGISTRY_PORT, TOKEN_PORT];
        let port = |port: u16| EgressPort { port: port.into(), end_port: None, protocol: Protocol::Tcp };
        EgressRule {
            cidr: Some(format!("{}/32", self.environment.cluster.node_ip)),
            ports: ports.map(port).to_vec(),
            ..EgressRule::default()
        }
    }

    /// Waits until the job has ended.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&self, job: &str) -> anyhow::Result<BuildJobStatus> {
        self.status_when(job, "the job ends", |status| status.phase.is_terminal()).await
    }

    /// Waits until the job is in this phase.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn in_phase(&self, job: &str, phase: JobPhase) -> anyhow::Result<BuildJobStatus> {
        self.status_when(job, &format!("the job is {phase:?}"), |status| status.phase == phase).await
    }

    /// Waits until the job's status is so.
    ///
    /// # Errors
    /// When it does not become so.
    pub async fn status_when(
        &self,
        job: &str,
        what: &str,
        predicate: impl Fn(&BuildJobStatus) -> bool,
    ) -> anyhow::Result<BuildJobStatus> {
        let found = wait::until(&self.jobs(), job, what, wait::BUILD, |job| {
            job.and_then(|job| job.status.as_ref()).is_some_and(&predicate)
        })
        .await?;
        Ok(found.and_then(|job| job.status).unwrap_or_default())
    }

    /// Changes fields of the job's spec.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn change(&self, job: &str, spec: serde_json::Value) -> Result<BuildJob, kube::Error> {
        let patch = Patch::Merge(serde_json::json!({"spec": spec}));
        self.jobs().patch(job, &PatchParams::default(), &patch).await
    }

    /// Sets the job's `spec.cancel`.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn cancel(&self, job: &str) -> Result<BuildJob, kube::Error> {
        self.change(job, serde_json::json!({"cancel": true})).await
    }

    /// Waits until the runner has printed a line that holds this text.
    ///
    /// # Errors
    /// When it does not.
    pub async fn printed(&self, pod: &str, text: &str) -> anyhow::Result<()> {
        wait::poll(&format!("{pod} prints {text:?}"), wait::BUILD, async || {
            Ok(self.log(pod, "runner").await.unwrap_or_default().contains(text).then_some(()))
        })
        .await
    }
}

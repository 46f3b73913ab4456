//! A tenant: a namespace with a registry login and the registry's CA, which ends with the test.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use serde_json::json;

use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJob, BuildPool};

use super::builders::{JobBuilder, PoolBuilder};
use super::{Environment, dump};
use crate::fixtures::token::Config;

/// Image in the cluster's registry that everybody may pull: a small Linux to run steps in.
pub const BASE: &str = "registry.buildpools.test:5000/library/busybox:stable";
/// Name of the registry login in a tenant's namespace.
pub const LOGIN: &str = "registry-login";
/// Name of the ConfigMap with the registry's CA.
pub const CA: &str = "registry-ca";

/// A registry that does not exist, for a login that only shows whether it is found.
pub const LOGIN_CANARY_HOST: &str = "canary.buildpools.test";

/// A tenant: a namespace of its own, with a registry login.
#[derive(Clone)]
pub struct Tenant {
    /// The cluster.
    pub environment: Environment,
    /// The tenant's namespace.
    pub namespace: String,
}

impl Tenant {
    /// Makes a tenant, runs the test, and removes the tenant. When the test fails, prints what is there first.
    ///
    /// # Panics
    /// When the test fails.
    pub async fn with(name: &str, test: impl AsyncFnOnce(&Tenant) -> anyhow::Result<()>) {
        let environment = match Environment::load().await {
            Ok(environment) => environment,
            Err(error) => panic!("{error:#}"),
        };
        let tenant = match Self::create(environment, name).await {
            Ok(tenant) => tenant,
            Err(error) => panic!("cannot make a namespace for {name}: {error:#}"),
        };
        let result = AssertUnwindSafe(test(&tenant)).catch_unwind().await;
        let failed = !matches!(result, Ok(Ok(())));
        if failed {
            if let Ok(Err(error)) = &result {
                eprintln!("{name} failed: {error:#}");
            }
            dump::namespace(&tenant.environment, &tenant.namespace).await;
        }
        tenant.delete().await;
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{name} failed: {error:#}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The same with further tenants, which are removed too.
    ///
    /// # Panics
    /// When the test fails.
    pub async fn with_others<const N: usize>(
        name: &str,
        others: [&str; N],
        test: impl AsyncFnOnce(&Tenant, [&Tenant; N]) -> anyhow::Result<()>,
    ) {
        Self::with(name, async |tenant| {
            let mut made = Vec::new();
            for other in others {
                made.push(Self::create(tenant.environment.clone(), other).await?);
            }
            let result = Box::pin(test(tenant, std::array::from_fn(|n| &made[n]))).await;
            for other in made {
                other.delete().await;
            }
            result
        })
        .await;
    }

    /// A namespace with a random name that admits build pods, with the login of user `alice` (`team-a/*`).
    ///
    /// # Errors
    /// When the API refuses something.
    pub async fn create(environment: Environment, name: &str) -> anyhow::Result<Self> {
        Self::create_with(environment, name, "privileged").await
    }

    /// The same, under a Pod Security level of choice.
    ///
    /// # Errors
    /// When the API refuses something.
    pub async fn create_with(environment: Environment, name: &str, pod_security: &str) -> anyhow::Result<Self> {
        let namespace = format!("{name}-{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let labels = BTreeMap::from([("pod-security.kubernetes.io/enforce".to_owned(), pod_security.to_owned())]);
        let object = Namespace {
            metadata: ObjectMeta { name: Some(namespace.clone()), labels: Some(labels), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::all(environment.client.clone()).create(&PostParams::default(), &object).await?;
        let tenant = Self { environment, namespace };
        tenant.login(LOGIN, "alice", &Config::password("alice")).await?;
        let ca = std::fs::read_to_string(&tenant.environment.cluster.ca)?;
        let object = ConfigMap {
            metadata: ObjectMeta { name: Some(CA.into()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([("ca.crt".into(), ca)])),
            ..ConfigMap::default()
        };
        tenant.api::<ConfigMap>().create(&PostParams::default(), &object).await?;
        Ok(tenant)
    }

    /// Makes a Secret with a login for the cluster's registry.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn login(&self, secret: &str, user: &str, password: &str) -> anyhow::Result<()> {
        let registry = &self.environment.cluster.registry;
        let config = json!({"auths": {registry: {"username": user, "password": password}}});
        self.docker_config(secret, &config.to_string()).await
    }

    /// Makes a Secret of type `kubernetes.io/dockerconfigjson`.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn docker_config(&self, secret: &str, config: &str) -> anyhow::Result<()> {
        let object = Secret {
            metadata: ObjectMeta { name: Some(secret.into()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            string_data: Some(BTreeMap::from([(".dockerconfigjson".into(), config.into())])),
            ..Secret::default()
        };
        self.api::<Secret>().create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Objects of a kind in the tenant's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.environment.client.clone(), &self.namespace)
    }

    /// The tenant's BuildPools.
    pub fn pools(&self) -> Api<BuildPool> {
        self.api()
    }

    /// The tenant's BuildJobs.
    pub fn jobs(&self) -> Api<BuildJob> {
        self.api()
    }

    /// The tenant's pods.
    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// A pool with the tenant's login, to be changed and created.
    pub fn pool(&self, name: &str) -> PoolBuilder<'_> {
        PoolBuilder::new(self, name)
    }

    /// A job for that pool, to be changed and created.
    pub fn job(&self, name: &str, pool: &str) -> JobBuilder<'_> {
        JobBuilder::new(self, name, pool)
    }

    /// Full name of an image of this tenant: `app:1` → `registry/team-a/<namespace>/app:1`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{}", self.environment.cluster.registry, self.repository(name))
    }

    /// Repository (with the tag, if `name` has one) in the registry.
    pub fn repository(&self, name: &str) -> String {
        format!("team-a/{}/{name}", self.namespace)
    }

    /// Log of a container.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn log(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let parameters = kube::api::LogParams { container: Some(container.into()), ..Default::default() };
        Ok(self.pods().logs(pod, &parameters).await?)
    }

    /// Runs a command in a container and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let place = ["-n", &self.namespace, "exec", pod, "-c", container, "--"];
        let output = self.environment.kubectl(&[&place, command].concat()).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The command lines of the processes in a member's daemon container, steps included.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn processes(&self, pod: &str) -> anyhow::Result<String> {
        // A process may end while it is read.
        let command = ["sh", "-c", r"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '"];
        self.exec(pod, names::DAEMON_CONTAINER, &command).await
    }

    /// Removes the namespace; does not wait, so that tests do not pay for the garbage collector.
    pub async fn delete(&self) {
        let api: Api<Namespace> = Api::all(self.environment.client.clone());
        // Builds that a failed test left behind would hold their pod for the whole grace period.
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        if let Err(error) = self.pods().delete_collection(&now, &kube::api::ListParams::default()).await {
            eprintln!("cannot delete the pods of {}: {error}", self.namespace);
        }
        if let Err(error) = api.delete(&self.namespace, &DeleteParams::default()).await {
            eprintln!("cannot delete namespace {}: {error}", self.namespace);
        }
    }
}

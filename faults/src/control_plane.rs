//! etcd and kube-apiserver alone: no kubelet, no controllers, no scheduler, no namespaces of the kernel, no root.
//!
//! [`ControlPlane::start`] takes a few seconds and gives an API server with `manifests/base` installed and its admission
//! policies in force. One serves many tests ([`ControlPlane::shared`]), as long as each has its own Kubernetes namespace.
//! Nothing collects garbage and nothing makes pods: whoever needs that writes it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use buildpools_crds::lifecycle::Member;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use buildpools_e2e::cluster::layout::repository;
use buildpools_e2e::cluster::process::wait_until;
use buildpools_e2e::cluster::{Layout, control_plane, pki};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions;
use kube::runtime::wait::Condition as _;
use kube::{Api, Client, Config, CustomResourceExt as _};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::kept::Kept;
use crate::lock;

/// Namespace of the operator, as in the manifests.
pub const OPERATOR_NAMESPACE: &str = "buildpools-system";

/// ServiceAccount of the operator, as in the manifests.
pub const OPERATOR: &str = "buildpools-operator";

/// Time that a part gets to become ready on a machine under load.
const READY: Duration = Duration::from_secs(90);

/// Tries to find ports that nobody takes between the look and the start.
const TRIES: usize = 3;

/// Settings of a control plane.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether the API server writes an audit log: [`ControlPlane::audit_log`].
    pub audit: bool,
}

/// Who calls the API server. RBAC and the admission policies see the user as they do in a cluster.
#[derive(Clone, Copy, Debug)]
pub enum User<'a> {
    /// The administrator, who may do everything.
    Admin,
    /// The operator's ServiceAccount.
    Operator,
    /// The runner of a pool, with a token that is bound to this pod.
    Runner {
        /// Namespace of the pool.
        namespace: &'a str,
        /// The pool.
        pool: &'a str,
        /// The pod.
        pod: &'a Member,
    },
}

/// A running API server with its etcd. Both end when it is dropped, and with this process whatever kills it.
pub struct ControlPlane {
    // In this order they are dropped: the directory last.
    api_server: Mutex<Option<Kept>>,
    etcd: Kept,
    etcd_url: String,
    port: u16,
    options: Options,
    layout: Layout,
    _directory: Directory,
}

impl ControlPlane {
    /// The one of this process. It cannot be stopped, because others use it too.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::start(Options::default())).await
    }

    /// Starts one and installs buildpools' definitions, roles and policies.
    ///
    /// # Errors
    /// When the programs are missing (`make tools` builds them) or do not become ready.
    pub async fn start(options: Options) -> Result<Self> {
        let mut tries = 0;
        let control_plane = loop {
            tries += 1;
            match Self::start_bare(options).await {
                Ok(control_plane) => break control_plane,
                Err(error) if tries < TRIES && format!("{error:#}").contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        };
        control_plane.install().await?;
        Ok(control_plane)
    }

    async fn start_bare(options: Options) -> Result<Self> {
        let usual = Layout::new("faults")?;
        for program in ["etcd", "kube-apiserver", "kubectl"] {
            ensure!(usual.tool(program).exists(), "{program} is missing: `make tools` builds it");
        }
        let directory = Directory::new(&usual)?;
        let layout = Layout { dir: directory.path.clone(), ..usual };
        for directory in ["config", "pki", "logs", "run", "data"] {
            fs::create_dir_all(layout.dir.join(directory))?;
        }
        let [port, etcd_port] = free_ports()?;
        let server = format!("https://127.0.0.1:{port}");
        pki::kubernetes(&layout, &server, &[], [("admin", "admin", Some("system:masters"))])?;
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let etcd = start_etcd(&layout, &etcd_url)?;
        let control_plane =
            Self { api_server: Mutex::new(None), etcd, etcd_url, port, options, layout, _directory: directory };
        control_plane.start_api_server().await?;
        Ok(control_plane)
    }

    /// Starts the API server, on the same port as before, after [`ControlPlane::stop_api_server`], and waits until it is
    /// ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let layout = &self.layout;
        let mut arguments = vec![
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers={}", self.etcd_url),
            format!("--cert-dir={}", layout.pki("").display()),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--authorization-mode=RBAC".into(),
            // Nobody reaches a service, and no controller makes ServiceAccounts and their tokens for pods.
            "--endpoint-reconciler-type=none".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--allow-privileged".into(),
            "--profiling=false".into(),
        ];
        arguments.extend(control_plane::keys(layout));
        if self.options.audit {
            arguments.extend(control_plane::audit(layout)?);
        }
        let api_server = Kept::start(layout, "kube-apiserver", &layout.tool("kube-apiserver"), &arguments, &[])?;
        let processes = [self.etcd.process().clone(), api_server.process().clone()];
        *self.api_server() = Some(api_server);
        control_plane::wait(layout, &processes).await?;
        Ok(())
    }

    /// Ends the API server at once: connections break, new ones are refused.
    pub fn stop_api_server(&self) {
        let stopped = self.api_server().take();
        drop(stopped);
    }

    /// Stops the API server in the middle of what it does: connections stay and nothing is answered.
    pub fn freeze_api_server(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw_api_server(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(api_server) = &*self.api_server() {
            api_server.signal(signal);
        }
    }

    fn api_server(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        lock(&self.api_server)
    }

    /// A client that acts as this user and repeats nothing by itself. It belongs to the runtime that it is made in.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn client(&self, user: User<'_>) -> Result<Client> {
        Ok(Client::try_from(self.config(user).await?)?)
    }

    /// The configuration of such a client, for those who put layers around it.
    ///
    /// # Errors
    /// When the administrator's kubeconfig cannot be read.
    pub async fn config(&self, user: User<'_>) -> Result<Config> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_of(user)?)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // What is tested decides itself; who tests is not to fail when the API server is short of time.
        config.default_retry = matches!(user, User::Admin);
        Ok(config)
    }

    /// The text of a kubeconfig that acts as this user, for a process of its own.
    ///
    /// # Errors
    /// When the administrator's kubeconfig cannot be read.
    pub fn kubeconfig_of(&self, user: User<'_>) -> Result<String> {
        let mut kubeconfig: serde_json::Value = serde_json::from_slice(&fs::read(self.layout.kubeconfig())?)?;
        let target = kubeconfig["users"][0]["user"].as_object_mut().context("the kubeconfig has a user")?;
        if let serde_json::Value::Object(user) = serde_json::to_value(user.impersonation())? {
            target.extend(user.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(kubeconfig.to_string())
    }

    /// The directory for logs and pid files of processes that belong to this control plane.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The audit log; there is one if [`Options::audit`] was set.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.audit_log()
    }

    /// Port of the API server on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    async fn install(&self) -> Result<()> {
        let base = repository().join("manifests/base");
        let applied = tokio::process::Command::new(self.layout.tool("kubectl"))
            .args(["apply", "--server-side", "-k"])
            .arg(&base)
            .env("KUBECONFIG", self.layout.kubeconfig())
            .env("KUBECACHEDIR", self.layout.data("kubectl"))
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .context("kubectl")?;
        if !applied.status.success() {
            bail!("kubectl apply -k {}: {}", base.display(), String::from_utf8_lossy(&applied.stderr));
        }
        let client = self.client(User::Admin).await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        wait_until("the definitions of buildpools", READY, &[], async || {
            for name in [BuildPool::crd_name(), BuildJob::crd_name()] {
                if !conditions::is_crd_established().matches_object(definitions.get_opt(name).await?.as_ref()) {
                    return Ok(false);
                }
            }
            // "storage is (re)initializing" until their caches are filled.
            let one = ListParams::default().limit(1);
            Api::<BuildPool>::all(client.clone()).list(&one).await?;
            Api::<BuildJob>::all(client.clone()).list(&one).await?;
            Ok(true)
        })
        .await?;
        self.announce(client.clone()).await?;
        self.wait_for_policies(client).await
    }

    /// Says where the API server is, for the NetworkPolicies of pools. It would do that itself if it were not on the
    /// loopback address, which no EndpointSlice takes.
    async fn announce(&self, client: Client) -> Result<()> {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        }))?;
        match Api::<EndpointSlice>::namespaced(client, "default").create(&PostParams::default(), &slice).await {
            // Of an earlier start of the same control plane.
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => Ok(()),
            done => done.map(drop).map_err(Into::into),
        }
    }

    /// The API server takes a moment to act by a new policy. A runner that writes somebody else's job is refused when it
    /// does.
    async fn wait_for_policies(&self, client: Client) -> Result<()> {
        const NAMESPACE: &str = "default";
        let jobs: Api<BuildJob> = Api::namespaced(client, NAMESPACE);
        let probe: BuildJob = serde_json::from_value(json!({
            "apiVersion": "buildpools.dev/v1alpha1",
            "kind": "BuildJob",
            "metadata": {"name": "policy-probe"},
            "spec": {
                "poolRef": {"name": "probe"},
                "context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}},
            },
        }))?;
        jobs.create(&PostParams::default(), &probe).await?;
        let pod = Member { pod: "probe-0".into(), uid: "probe".into() };
        let mut config = self.config(User::Runner { namespace: NAMESPACE, pool: "probe", pod: &pod }).await?;
        // May do everything by RBAC, so that only the policy can refuse.
        config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
        let runner: Api<BuildJob> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
        let (dry_run, status) =
            (PatchParams { dry_run: true, ..PatchParams::default() }, json!({"status": {"phase": "Pending"}}));
        wait_until("the admission policies", READY, &[], async || {
            match runner.patch_status("policy-probe", &dry_run, &Patch::Merge(&status)).await {
                Err(kube::Error::Api(refusal)) if refusal.message.contains("a runner writes only") => Ok(true),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(false),
            }
        })
        .await?;
        jobs.delete("policy-probe", &DeleteParams::default()).await?;
        Ok(())
    }
}

impl User<'_> {
    /// Whom the administrator's certificate acts as.
    fn impersonation(self) -> Option<AuthInfo> {
        match self {
            Self::Admin => None,
            Self::Operator => Some(AuthInfo {
                impersonate: Some(format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}")),
                ..AuthInfo::default()
            }),
            Self::Runner { namespace, pool, pod } => {
                let extra = [("pod-name", &pod.pod), ("pod-uid", &pod.uid)];
                let extra =
                    extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.clone()]));
                Some(AuthInfo {
                    impersonate: Some(format!("system:serviceaccount:{namespace}:{}", names::runner(pool))),
                    impersonate_user_extra: Some(extra.into()),
                    ..AuthInfo::default()
                })
            }
        }
    }
}

fn start_etcd(layout: &Layout, url: &str) -> Result<Kept> {
    let arguments = [
        format!("--data-dir={}", layout.data("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        // Nothing here outlives this process, so nothing has to be on disk in time.
        "--unsafe-no-fsync".into(),
        // 8 GiB, the most that etcd recommends: the churn of 100,000 jobs leaves many versions behind.
        "--quota-backend-bytes=8589934592".into(),
    ];
    Kept::start(layout, "etcd", &layout.tool("etcd"), arguments, &[])
}

/// Ports that nobody listens on now.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All at once, so that they differ.
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind(("127.0.0.1", 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// A directory that is removed when it is dropped; if this process is killed, by the next that makes one.
struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    fn new(layout: &Layout) -> Result<Self> {
        // In memory if possible: a disk that is slow for a moment shows in every write.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let _one_at_a_time = layout.lock("control-planes")?;
        let base = base.join("buildpools-faults");
        fs::create_dir_all(&base)?;
        remove_abandoned(&base)?;
        let path = tempfile::Builder::new().prefix("").tempdir_in(&base)?.keep();
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }
}

/// Those whose owner holds no lock any more.
fn remove_abandoned(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base)?.flatten() {
        let abandoned = File::open(entry.path().join("lock")).map_or(true, |lock| lock.try_lock().is_ok());
        if abandoned {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot be removed");
        }
    }
}

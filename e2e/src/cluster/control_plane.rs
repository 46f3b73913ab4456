//! etcd, the API server, the controller manager and the scheduler.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Layout;
use super::layout::{API_PORT, Addresses};
use super::pki::kubeconfig_path;
use super::process::{self, Process, wait_until};

/// Who requests what, without bodies: enough to count writes and to check permissions.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// Starts etcd and the API server at once: the API server waits for the other.
pub fn start(layout: &Layout, addresses: &Addresses) -> Result<Vec<Process>> {
    let etcd = [
        format!("--data-dir={}", layout.data("etcd").display()),
        // The node's loopback interface: nobody else reaches it.
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        // A cluster does not survive its machine, so nothing has to be on disk in time.
        "--unsafe-no-fsync".into(),
    ];
    let pki = |file: &str| layout.pki(file).display().to_string();
    let api_server = [
        format!("--advertise-address={}", addresses.node),
        format!("--secure-port={API_PORT}"),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--service-cluster-ip-range={}", addresses.services),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged".into(),
        "--profiling=false".into(),
    ];
    let (keys, audit) = (keys(layout), audit(layout)?);
    let api_server = api_server.iter().chain(&keys).chain(&audit);
    Ok(vec![
        process::start(layout, "etcd", &layout.tool("etcd"), &etcd)?,
        process::start(layout, "kube-apiserver", &layout.tool("kube-apiserver"), api_server)?,
    ])
}

/// The API server's flags about keys and certificates, as [`super::pki`] makes them.
pub fn keys(layout: &Layout) -> [String; 6] {
    let pki = |file: &str| layout.pki(file).display().to_string();
    [
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
    ]
}

/// The API server's flags about its audit log.
pub fn audit(layout: &Layout) -> Result<[String; 2]> {
    let policy = layout.config("audit-policy.yaml");
    fs::write(&policy, AUDIT_POLICY)?;
    Ok([
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", layout.audit_log().display()),
    ])
}

/// Waits until the API server is ready.
pub async fn wait(layout: &Layout, processes: &[Process]) -> Result<kube::Client> {
    let client = client(layout).await?;
    let processes: Vec<_> = processes.iter().collect();
    let ready = async || {
        let request = axum::http::Request::get("/readyz").body(vec![])?;
        Ok::<_, anyhow::Error>(client.request_text(request).await? == "ok")
    };
    wait_until("the API server", Duration::from_secs(90), &processes, ready).await?;
    Ok(client)
}

/// A client with the administrator's rights.
pub async fn client(layout: &Layout) -> Result<kube::Client> {
    // Somebody else may have done it already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let path = layout.kubeconfig();
    let kubeconfig = Kubeconfig::read_from(&path).with_context(|| path.display().to_string())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Starts the controllers and the scheduler.
pub fn start_controllers(layout: &Layout) -> Result<Vec<Process>> {
    let pki = |file: &str| layout.pki(file).display().to_string();
    let connection = |component: &str| {
        let path = kubeconfig_path(layout, component).display().to_string();
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(|flag| format!("--{flag}={path}"))
    };
    let common = ["--leader-elect=false".to_owned(), "--bind-address=127.0.0.1".into(), "--profiling=false".into()];
    let controller_manager = [
        // So that admission policies and the audit log see which controller acts.
        "--use-service-account-credentials".into(),
        // The network plugin hands out pod addresses by itself.
        "--allocate-node-cidrs=false".into(),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
    ];
    ["kube-controller-manager", "kube-scheduler"]
        .into_iter()
        .map(|name| {
            let own: &[String] = if name == "kube-controller-manager" { &controller_manager } else { &[] };
            let connection = connection(name);
            process::start(layout, name, &layout.tool(name), connection.iter().chain(&common).chain(own))
        })
        .collect()
}

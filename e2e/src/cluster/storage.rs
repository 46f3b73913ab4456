//! Dynamic volumes on the local disk, by local-path-provisioner as a node process. It sets no size limits.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Layout;
use super::images::BUSYBOX;
use super::pki::kubeconfig_path;
use super::process::{self, Process};

const MANIFEST: &str = include_str!("manifests/storage.yaml");
const HELPER_POD: &str = include_str!("manifests/helper-pod.yaml");
const NAMESPACE: &str = "local-path-storage";

/// Makes the storage class and starts the provisioner.
pub fn start(layout: &Layout) -> Result<Process> {
    apply(layout, MANIFEST)?;
    let config = layout.config("local-path.json");
    let paths = json!([{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [layout.data("volumes")]}]);
    fs::write(&config, json!({"nodePathMap": paths}).to_string())?;
    let helper_pod = layout.config("helper-pod.yaml");
    fs::write(&helper_pod, HELPER_POD.replace("IMAGE", BUSYBOX))?;
    let arguments = [
        "start".to_owned(),
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", kubeconfig_path(layout, "local-path-provisioner").display()),
        format!("--namespace={NAMESPACE}"),
        "--configmap-name=local-path-config".into(),
        "--service-account-name=local-path-helper".into(),
        format!("--helper-image={BUSYBOX}"),
        format!("--helper-pod-file={}", helper_pod.display()),
    ];
    let program = layout.tool("local-path-provisioner");
    process::start(layout, "local-path-provisioner", &program, &arguments)
}

/// `kubectl apply` of a manifest that belongs to the cluster itself.
pub(super) fn apply(layout: &Layout, manifest: &str) -> Result<()> {
    let mut kubectl = Command::new(layout.tool("kubectl"))
        .arg(format!("--kubeconfig={}", layout.kubeconfig().display()))
        .args(["apply", "--server-side", "--filename=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl")?;
    kubectl.stdin.take().context("kubectl's input is a pipe")?.write_all(manifest.as_bytes())?;
    let output = kubectl.wait_with_output()?;
    ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

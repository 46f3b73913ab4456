//! The real operator as processes of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use buildpools_e2e::cluster::node::target_directory;

use crate::control_plane::{ControlPlane, OPERATOR_NAMESPACE};
use crate::kept::Kept;

/// The program that `cargo build` has made.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    let program = target_directory().join("buildpools-operator");
    ensure!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
    Ok(program)
}

/// Starts the operator as the pod of this name. Its log is that of the same name.
///
/// # Errors
/// When it cannot be started.
pub fn start(plane: &ControlPlane, pod: &str, kubeconfig: &str, health: SocketAddr) -> Result<Kept> {
    let layout = plane.layout();
    let path = layout.config(&format!("{pod}.kubeconfig"));
    fs::write(&path, kubeconfig)?;
    let (path, health) = (path.display().to_string(), health.to_string());
    let variables = [
        ("KUBECONFIG", path.as_str()),
        ("POD_NAME", pod),
        ("POD_NAMESPACE", OPERATOR_NAMESPACE),
        ("HEALTH_ADDR", &health),
        ("METRICS_ADDR", "127.0.0.1:0"),
        ("DEBUG_ADDR", "127.0.0.1:0"),
        ("RUNNER_IMAGE", "runner"),
        ("BUILDKIT_IMAGE", "buildkitd"),
        ("BUILDKIT_USER_NAMESPACE_IMAGE", "buildkitd-plain"),
        ("RUST_LOG", "warn,buildpools_operator=info"),
        // As in manifests/base/operator.yaml.
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ];
    Kept::start(layout, pod, &program()?, [] as [&str; 0], &variables)
}

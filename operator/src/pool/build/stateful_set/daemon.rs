//! The container `buildkitd`: a native sidecar, so that it starts before the runner and stops after it.

use buildpools_crds::member_config::BUILDKITD_KEY;
use buildpools_crds::names;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, ResourceRequirements, SeccompProfile, SecurityContext,
};

use super::super::super::validate::ValidPool;
use super::super::paths;
use super::{USER, volumes};

/// No probe: the runner knows when the daemon answers, a startup probe would only delay it, and a liveness probe could
/// end builds.
pub(super) fn container(pool: &ValidPool) -> Container {
    let some = |map: &std::collections::BTreeMap<_, _>| (!map.is_empty()).then(|| map.clone());
    Container {
        name: names::DAEMON_CONTAINER.to_owned(),
        image: Some(pool.buildkit_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        restart_policy: Some("Always".to_owned()),
        // The image's own entry point, `rootlesskit buildkitd`, under one that knows a damaged cache (start.sh).
        command: Some(["/bin/sh", paths::START, paths::STATE, "rootlesskit", "buildkitd"].map(str::to_owned).to_vec()),
        args: Some(vec![
            "--config".to_owned(),
            format!("{}/{BUILDKITD_KEY}", paths::DAEMON_CONFIG),
            "--addr".to_owned(),
            format!("unix://{}", paths::SOCKET),
            // A sandbox of its own would need a /proc that an unprivileged container may not mount.
            "--oci-worker-no-process-sandbox".to_owned(),
        ]),
        resources: Some(ResourceRequirements {
            requests: some(&pool.requests),
            limits: some(&pool.limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security_context()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes::daemon_mounts(pool)),
        ..Container::default()
    }
}

/// As measured; `docs/threats.md` says why each. `allowPrivilegeEscalation` stays unset: newuidmap and newgidmap have
/// file capabilities, which mean nothing under no_new_privs.
fn security_context() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: Some(vec!["SETUID".to_owned(), "SETGID".to_owned()]),
        }),
        seccomp_profile: Some(SeccompProfile { type_: "Unconfined".to_owned(), ..SeccompProfile::default() }),
        app_armor_profile: Some(AppArmorProfile { type_: "Unconfined".to_owned(), ..AppArmorProfile::default() }),
        ..SecurityContext::default()
    }
}

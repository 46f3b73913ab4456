//! The container `runner`: the pod's main container, the only one with logins and a Kubernetes identity. It satisfies
//! Pod Security `restricted`.

use std::collections::BTreeMap;

use buildpools_crds::member_config::RUNNER_KEY;
use buildpools_crds::names;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, ExecAction, ObjectFieldSelector, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::super::validate::ValidPool;
use super::super::paths;
use super::{USER, volumes};

/// The runner's program, with its own answer to "are you ready".
const PROBE: [&str; 2] = ["/usr/bin/buildpools-runner", "probe"];

/// A daemon may take its time to open a large cache; the kubelet restarts a runner whose startup takes longer. It has
/// not built anything by then.
const STARTUP_SECONDS: i32 = 600;

pub(super) fn container(pool: &ValidPool) -> Container {
    Container {
        name: names::RUNNER_CONTAINER.to_owned(),
        image: Some(pool.runner_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(vec![
            field("POD_NAME", "metadata.name"),
            field("POD_UID", "metadata.uid"),
            field("POD_NAMESPACE", "metadata.namespace"),
            value("POOL_NAME", &pool.name),
            value("BUILDKIT_SOCKET", paths::SOCKET),
            value("CONFIG", &format!("{}/{RUNNER_KEY}", paths::RUNNER_CONFIG)),
            value("CACHE", paths::RUNNER_CACHE),
        ]),
        resources: Some(resources()),
        security_context: Some(security_context()),
        // Every second until it is ready, so that a cold start is not longer than it must be; then rarely, because a
        // probe is a new process.
        startup_probe: Some(probe(1, STARTUP_SECONDS)),
        readiness_probe: Some(probe(10, 3)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes::runner_mounts(pool)),
        ..Container::default()
    }
}

fn probe(period: i32, failures: i32) -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some(PROBE.map(str::to_owned).to_vec()) }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        // Builds may take all of the CPU.
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// What a client of one daemon needs, with room: if it is killed, so are its builds.
fn resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| -> Option<BTreeMap<String, Quantity>> {
        Some(list.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "20m"), ("memory", "32Mi")]),
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

fn security_context() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..SecurityContext::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: Some("v1".to_owned()) }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

//! Bombs: processes, memory, disk. The pool's limits hold them; its daemon survives or comes back, and another pool's
//! build goes on.

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildPoolSpec, FailureReason, JobPhase, PoolProfile};
use buildpools_e2e::harness::Tenant;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::canaries::Canaries;
use super::disk::Disk;
use super::{ATTACKER, pool, prepare, victim};

/// Name, the step that does it, and why it fails. A step ends by itself, should nothing stop it.
const BOMBS: [(&str, &str, FailureReason); 3] = [
    // The kubelet of the test cluster gives a pod 4096.
    ("forks", "attack forks 6000", FailureReason::BuildStepFailed),
    ("memory", "dd if=/dev/zero of=/dev/null bs=1500M count=1", FailureReason::OutOfMemory),
    ("disk", "dd if=/dev/zero of=/big bs=1M count=1500", FailureReason::DiskFull),
];

#[tokio::test]
async fn bombs_hurt_no_other_pool() {
    Tenant::with_others("bombs", ["bombs-other"], async |tenant, [other]| bombs(tenant, other).await).await;
}

async fn bombs(tenant: &Tenant, other: &Tenant) -> anyhow::Result<()> {
    prepare::once(tenant).await?;
    let canaries = Canaries::new();
    let disk = Disk::new(tenant, 1024, None)?;
    disk.offer(tenant, &names::cache_claim("main", 0), "1Gi").await?;
    let limits = |spec: &mut BuildPoolSpec| {
        spec.pod.resources.limits.insert("memory".into(), IntOrString::String("512Mi".into()));
        spec.cache.storage_class_name = Some(disk.class.clone());
        spec.cache.size = "1Gi".into();
    };
    futures::try_join!(tenant.pool("main").spec(limits).create_ready(), async {
        pool(other, PoolProfile::Rootless, canaries.of("other-login"), 2).await
    },)?;
    victim(other, "other", canaries.of("other")).await?;
    for (name, step, reason) in BOMBS {
        let job = tenant.job(name, "main").inline(&format!("FROM {ATTACKER}\nRUN {step}\n"));
        let status = job.spec(|spec| spec.infra_retries = Some(1)).run().await?;
        let failure = status.failure.with_context(|| format!("{name}: {:?}", status.phase))?;
        println!("{name}: {failure:?}");
        ensure!(failure.reason == reason, "{name}: {failure:?}");
        if name == "forks" {
            let refused = failure.log_tail.iter().any(|line| line.contains("refused fork"));
            ensure!(refused, "it met another limit than that of processes: {failure:?}");
        }
        // The pool builds again, without anybody's help.
        let after = format!("after-{name}");
        let status = tenant.job(&after, "main").inline(&format!("FROM {ATTACKER}\nRUN echo {after}\n")).run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{after}: {:?}", status.failure);
        let victim = other.jobs().get("other").await?.status.unwrap_or_default();
        ensure!(victim.phase == JobPhase::Running && victim.attempts.len() == 1, "{name}: {victim:?}");
    }
    Ok(())
}

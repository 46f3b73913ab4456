//! Pools that change and go while builds run: no build is harmed by it.

use anyhow::{Context as _, ensure};
use axum::http::Request;
use buildpools_crds::v1alpha1::{BuildJobStatus, BuildPool, FailureReason, JobPhase, MemberPhase, WhenDeleted};
use buildpools_crds::{conditions, labels, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A build that runs until it is released. Of each job another: a step that has succeeded is in the cache.
fn held(job: &str) -> String {
    format!("FROM {BASE}\nRUN echo {job} >/job; echo step-has-begun; sleep 617 || echo released\n")
}

/// Starts a build that runs until it is released, and waits until it does. The status and the UID of its pod.
async fn begin(tenant: &Tenant, job: &str) -> anyhow::Result<(BuildJobStatus, String)> {
    tenant.job(job, "main").inline(&held(job)).create().await?;
    let status = tenant.in_phase(job, JobPhase::Running).await?;
    let pod = status.member.clone().context("member")?;
    let begun = format!("[{job}]");
    wait::poll(&format!("the step of {job} runs"), wait::BUILD, async || {
        let log = tenant.log(&pod, "runner").await.unwrap_or_default();
        Ok(log.lines().any(|line| line.starts_with(&begun) && line.ends_with("step-has-begun")).then_some(()))
    })
    .await?;
    let uid = status.assigned_to.clone().context("assignedTo")?;
    Ok((status, uid))
}

/// Lets the builds of a member go on.
async fn release(tenant: &Tenant, pod: &str) -> anyhow::Result<()> {
    let kill = r#"for p in /proc/[0-9]*; do
        if tr '\0' ' ' < "$p/cmdline" 2>/dev/null | grep -q '^sleep 617'; then kill "${p#/proc/}"; fi
    done; true"#;
    tenant.exec(pod, names::DAEMON_CONTAINER, &["sh", "-c", kill]).await.map(drop)
}

/// Changes the members' template: a request that fits everywhere.
async fn change(tenant: &Tenant, cpu: &str) -> anyhow::Result<()> {
    let spec = json!({"spec": {"pod": {"resources": {"requests": {"cpu": cpu}}}}});
    tenant.pools().patch("main", &PatchParams::default(), &Patch::Merge(spec)).await?;
    Ok(())
}

fn upgrading(pool: Option<&BuildPool>) -> Option<(String, String, String)> {
    let status = pool?.status.as_ref()?;
    let condition = conditions::find(&status.conditions, conditions::UPGRADING)?;
    Some((condition.status.clone(), condition.reason.clone(), condition.message.clone()))
}

/// Waits until condition Upgrading has this reason; its message.
async fn until_upgrading(tenant: &Tenant, reason: &str) -> anyhow::Result<String> {
    let what = format!("Upgrading says {reason}");
    let pool = wait::until(&tenant.pools(), "main", &what, wait::BUILD, |pool| {
        upgrading(pool).is_some_and(|(_, is, _)| is == reason)
    })
    .await?;
    Ok(upgrading(pool.as_ref()).context("Upgrading")?.2)
}

/// Waits until the change has been seen and all members are of the newest form.
async fn upgraded(tenant: &Tenant, outdated: &[String]) -> anyhow::Result<Vec<Pod>> {
    wait::poll("all members are replaced", wait::BUILD, async || {
        let pool = tenant.pools().get("main").await?;
        let rests = upgrading(Some(&pool)).is_some_and(|(status, ..)| status == "False");
        let pods = members(tenant).await?;
        let wanted = usize::try_from(pool.spec.scaling.min_members)?;
        let new = pods.iter().all(|pod| pod.metadata.uid.as_ref().is_some_and(|uid| !outdated.contains(uid)));
        Ok((rests && new && pods.len() == wanted).then_some(pods))
    })
    .await
}

async fn members(tenant: &Tenant) -> anyhow::Result<Vec<Pod>> {
    let selector = ListParams::default().labels(&format!("{}=main", labels::POOL));
    Ok(tenant.pods().list(&selector).await?.items)
}

async fn uids(tenant: &Tenant) -> anyhow::Result<Vec<String>> {
    Ok(members(tenant).await?.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

#[tokio::test]
async fn a_change_waits_for_the_build_and_the_next_build_runs_on_the_new_form() {
    Tenant::with("upgrade", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 2).create_ready().await?;
        let (_, old) = begin(tenant, "long").await?;
        change(tenant, "51m").await?;
        let message = until_upgrading(tenant, "Draining").await?;
        wait::until(&tenant.pools(), "main", "the message names what is waited for", wait::SOON, |pool| {
            upgrading(pool).is_some_and(|(_, _, message)| message.contains("main-0 finishes 1 build (long)"))
        })
        .await
        .with_context(|| message)?;
        let status = tenant.pools().get("main").await?.status.context("status")?;
        ensure!(status.members.iter().any(|it| it.uid == old && it.phase == Some(MemberPhase::Draining)), "{status:?}");
        ensure!(
            conditions::is_true(&status.conditions, conditions::RECONCILING),
            "kstatus would call it done: {status:?}"
        );

        // There is a slot, and it is not given away.
        tenant.job("next", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("next:1").create().await?;
        let waits = |status: &BuildJobStatus| {
            conditions::find(&status.conditions, conditions::RECONCILING)
                .is_some_and(|condition| condition.message.contains("being replaced"))
        };
        tenant.status_when("next", "the next job is told why it waits", waits).await?;
        ensure!(tenant.jobs().get("long").await?.status.context("status")?.phase == JobPhase::Running);

        release(tenant, "main-0").await?;
        let long = tenant.ended("long").await?;
        ensure!(long.phase == JobPhase::Succeeded && long.attempts.len() == 1, "{long:?}");
        let next = tenant.ended("next").await?;
        ensure!(next.phase == JobPhase::Succeeded, "{:?}", next.failure);
        ensure!(next.attempts.len() == 1 && next.attempts[0].pod_uid != old, "{:?}", next.attempts);

        let pods = upgraded(tenant, &[old]).await?;
        let spec = serde_json::to_value(&pods[0].spec)?;
        ensure!(spec["initContainers"][0]["resources"]["requests"]["cpu"] == "51m", "{spec:#}");
        let status = tenant.pools().get("main").await?.status.context("status")?;
        ensure!(
            status.upgrade.is_none() && !conditions::is_true(&status.conditions, conditions::RECONCILING),
            "{status:?}"
        );
        for reason in ["UpgradeStarted", "UpgradeFinished"] {
            event(tenant, reason).await?;
        }
        Ok(())
    })
    .await;
}

/// Waits for an Event about the pool.
async fn event(tenant: &Tenant, reason: &str) -> anyhow::Result<Event> {
    let selector = ListParams::default().fields(&format!("reason={reason},involvedObject.kind=BuildPool"));
    wait::poll(&format!("an Event {reason}"), wait::SOON, async || {
        Ok(tenant.api::<Event>().list(&selector).await?.items.into_iter().next())
    })
    .await
}

#[tokio::test]
async fn members_are_replaced_one_at_a_time() {
    Tenant::with("upgrade-two", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.min_members = 2).create_ready().await?;
        let old = uids(tenant).await?;
        ensure!(old.len() == 2, "{old:?}");
        change(tenant, "52m").await?;
        let (mut least, mut drained) = (2, Vec::new());
        wait::until(&tenant.pools(), "main", "all members are replaced", wait::BUILD, |pool| {
            let Some(status) = pool.and_then(|pool| pool.status.as_ref()) else { return false };
            least = least.min(status.ready_members.unwrap_or_default());
            if let Some(mark) = status.upgrade.as_ref().and_then(|upgrade| upgrade.draining.as_ref())
                && !drained.contains(&mark.uid)
            {
                drained.push(mark.uid.clone());
            }
            drained.len() == 2 && upgrading(pool).is_some_and(|(status, ..)| status == "False")
        })
        .await?;
        ensure!(least == 1, "{least} members were ready at the worst moment");
        let mut of_old = drained.clone();
        of_old.sort_unstable();
        let mut expected = old.clone();
        expected.sort_unstable();
        ensure!(of_old == expected, "drained {drained:?} of {old:?}");
        upgraded(tenant, &old).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn drain_timeout_says_what_holds_the_upgrade_and_ends_no_build() {
    Tenant::with("upgrade-held", async |tenant| {
        let short = std::time::Duration::from_secs(1);
        tenant.pool("main").spec(|spec| spec.drain_timeout = Some(short.into())).create_ready().await?;
        let (_, old) = begin(tenant, "endless").await?;
        change(tenant, "53m").await?;
        let message = until_upgrading(tenant, "DrainTimeoutExceeded").await?;
        ensure!(message.contains("main-0 has not finished 1 build (endless) within drainTimeout (1s)"), "{message}");
        ensure!(message.contains("spec.cancel"), "no remedy: {message}");
        event(tenant, "DrainTimeoutExceeded").await?;
        let status = tenant.jobs().get("endless").await?.status.context("status")?;
        ensure!(status.phase == JobPhase::Running, "{status:?}");
        tenant.cancel("endless").await?;
        ensure!(tenant.ended("endless").await?.phase == JobPhase::Cancelled);
        upgraded(tenant, &[old]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_replacement_that_does_not_come_up_stops_the_upgrade_and_the_others_build() {
    Tenant::with("upgrade-broken", async |tenant| {
        let pool = tenant.pool("main").spec(|spec| spec.scaling.min_members = 2).create_ready().await?;
        let old = uids(tenant).await?;
        let nothing = format!("{}/library/there-is-none:1", tenant.environment.cluster.registry);
        let image = |image: Value| json!({"spec": {"buildkit": {"image": image}}});
        tenant.pools().patch("main", &PatchParams::default(), &Patch::Merge(image(json!(nothing)))).await?;
        let message = until_upgrading(tenant, "ReplacementNotReady").await?;
        ensure!(message.contains(&nothing) && message.contains("the others stay as they are"), "{message}");
        event(tenant, "ReplacementNotReady").await?;
        let left: Vec<_> = uids(tenant).await?.into_iter().filter(|uid| old.contains(uid)).collect();
        ensure!(left.len() == 1, "{left:?} of {old:?} are left");
        let built = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").run().await?;
        ensure!(built.phase == JobPhase::Succeeded, "{:?}", built.failure);
        ensure!(built.attempts[0].pod_uid == left[0], "{:?}", built.attempts);
        // Mended: the broken one comes first, and the one that never ran the broken form may stay.
        let before = image(json!(pool.spec.buildkit.image));
        tenant.pools().patch("main", &PatchParams::default(), &Patch::Merge(before)).await?;
        wait::until(&tenant.pools(), "main", "both members are ready", wait::BUILD, |pool| {
            upgrading(pool).is_some_and(|(status, ..)| status == "False")
                && pool.and_then(|pool| pool.status.as_ref()).is_some_and(|status| status.ready_members == Some(2))
        })
        .await?;
        ensure!(uids(tenant).await?.contains(&left[0]), "a member of the right form was replaced");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_deleted_pool_finishes_its_builds_first() {
    Tenant::with("deleted-finish", async |tenant| {
        tenant.pool("main").create_ready().await?;
        begin(tenant, "long").await?;
        tenant.pools().delete("main", &DeleteParams::default()).await?;
        wait::until(&tenant.pools(), "main", "Ready says what the deletion waits for", wait::SOON, |pool| {
            let status = pool.and_then(|pool| pool.status.as_ref());
            status.and_then(|status| conditions::find(&status.conditions, conditions::READY)).is_some_and(|ready| {
                ready.reason == "Deleting" && ready.message.contains("(long)") && ready.message.contains("whenDeleted")
            })
        })
        .await?;
        let rights: Api<RoleBinding> = tenant.api();
        ensure!(rights.get_opt(&names::runner("main")).await?.is_some(), "the runner could not write the outcome");
        ensure!(tenant.jobs().get("long").await?.status.context("status")?.phase == JobPhase::Running);
        release(tenant, "main-0").await?;
        let status = tenant.ended("long").await?;
        ensure!(status.phase == JobPhase::Succeeded && status.attempts.len() == 1, "{status:?}");
        gone(tenant).await
    })
    .await;
}

#[tokio::test]
async fn a_deleted_pool_cancels_its_builds_if_it_says_so() {
    Tenant::with("deleted-cancel", async |tenant| {
        tenant.pool("main").spec(|spec| spec.when_deleted = WhenDeleted::Cancel).create_ready().await?;
        begin(tenant, "long").await?;
        tenant.pools().delete("main", &DeleteParams::default()).await?;
        let status = tenant.ended("long").await?;
        let failure = status.failure.context("failure")?;
        ensure!(status.phase == JobPhase::Cancelled && failure.reason == FailureReason::Cancelled, "{failure:?}");
        ensure!(failure.message.contains("BuildPool main is deleted"), "{}", failure.message);
        gone(tenant).await
    })
    .await;
}

async fn gone(tenant: &Tenant) -> anyhow::Result<()> {
    wait::until(&tenant.pools(), "main", "the pool is gone", wait::SOON, |pool| pool.is_none()).await?;
    wait::until(&tenant.pods(), "main-0", "its pod is gone", wait::SOON, |pod| pod.is_none()).await?;
    let rights: Api<RoleBinding> = tenant.api();
    wait::until(&rights, &names::runner("main"), "its rights are gone", wait::SOON, |it| it.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn a_namespace_with_pools_and_builds_can_be_deleted() {
    Tenant::with("deleted-namespace", async |tenant| {
        // Its rights go with the namespace at once, so the runner has the time that a build may take, and no more.
        let short = std::time::Duration::from_secs(20);
        tenant.pool("idle").create_ready().await?;
        tenant.pool("main").spec(|spec| spec.max_build_duration = short.into()).create_ready().await?;
        begin(tenant, "long").await?;
        let namespaces: Api<Namespace> = Api::all(tenant.environment.client.clone());
        namespaces.delete(&tenant.namespace, &DeleteParams::default()).await?;
        wait::until(&namespaces, &tenant.namespace, "the namespace is gone", wait::BUILD, |it| it.is_none()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_evicted_member_finishes_its_build_and_one_that_may_not_costs_an_attempt_that_says_why() {
    Tenant::with("eviction", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let (_, first) = begin(tenant, "patient").await?;
        evict(tenant, None).await?;
        wait::until(&tenant.pods(), "main-0", "the pod is being stopped", wait::SOON, |pod| {
            pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
        })
        .await?;
        release(tenant, "main-0").await?;
        let status = tenant.ended("patient").await?;
        ensure!(status.phase == JobPhase::Succeeded && status.attempts.len() == 1, "{status:?}");

        let (_, second) = begin(tenant, "cut-off").await?;
        ensure!(first != second, "the pod was not replaced");
        evict(tenant, Some(1)).await?;
        let lost = |status: &BuildJobStatus| status.attempts.first().is_some_and(|attempt| attempt.result.is_some());
        let status = tenant.status_when("cut-off", "the attempt is lost", lost).await?;
        let attempt = &status.attempts[0];
        ensure!(attempt.result.as_deref() == Some("PodEvicted"), "{attempt:?}");
        let message = attempt.message.clone().unwrap_or_default();
        ensure!(message.contains("EvictionByEvictionAPI") && message.contains("kubectl drain"), "{message}");
        let again = |status: &BuildJobStatus| status.phase == JobPhase::Running && status.attempts.len() == 2;
        tenant.status_when("cut-off", "another attempt runs", again).await?;
        tenant.cancel("cut-off").await?;
        ensure!(tenant.ended("cut-off").await?.phase == JobPhase::Cancelled);
        Ok(())
    })
    .await;
}

/// Evicts the member, with another grace period than its own if one is given. A PodDisruptionBudget that protects it is in
/// the way; who has the rights may remove that. (kube 5 sends the options of an eviction under a name that no API server
/// knows.)
async fn evict(tenant: &Tenant, grace_seconds: Option<u32>) -> anyhow::Result<()> {
    let budgets: Api<PodDisruptionBudget> = tenant.api();
    let path = format!("/api/v1/namespaces/{}/pods/main-0/eviction", tenant.namespace);
    let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "main-0"}});
    eviction["deleteOptions"] = json!({"gracePeriodSeconds": grace_seconds});
    wait::poll("the member is evicted", wait::SOON, async || {
        let request = Request::post(&path).header("Content-Type", "application/json");
        let answer = tenant.environment.client.request_text(request.body(serde_json::to_vec(&eviction)?)?).await;
        match answer {
            Ok(_) => Ok(Some(())),
            Err(kube::Error::Api(status)) if status.code == 429 => {
                budgets.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// A resource of which the node has one: who has it is preempted by who needs it more, and nobody else.
const SEAT: &str = "buildpools.test/seat";

#[tokio::test]
async fn a_member_that_is_preempted_finishes_its_build() {
    Tenant::with("preemption", async |tenant| {
        let client = tenant.environment.client.clone();
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.list(&ListParams::default()).await?.items.remove(0).metadata.name.context("name")?;
        let seats = json!({"status": {"capacity": {SEAT: "1"}, "allocatable": {SEAT: "1"}}});
        nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(seats)).await?;
        let pool = tenant.pool("main").spec(|spec| {
            let seat = || [(SEAT.to_owned(), IntOrString::Int(1))].into();
            spec.pod.resources.requests = seat();
            spec.pod.resources.limits = seat();
        });
        pool.create_ready().await?;
        begin(tenant, "patient").await?;

        let class = tenant.namespace.clone();
        let urgent = json!({"metadata": {"name": class}, "value": 1000});
        let classes: Api<PriorityClass> = Api::all(client);
        classes.create(&PostParams::default(), &serde_json::from_value(urgent)?).await?;
        let preempted = preempt(tenant, &class).await;
        classes.delete(&class, &DeleteParams::default()).await?;
        preempted
    })
    .await;
}

async fn preempt(tenant: &Tenant, class: &str) -> anyhow::Result<()> {
    let pod = json!({
        "metadata": {"name": "urgent"},
        "spec": {
            "priorityClassName": class,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "sleep", "image": BASE, "command": ["sleep", "600"],
                "resources": {"requests": {SEAT: "1"}, "limits": {SEAT: "1"}},
            }],
        },
    });
    let pod: Pod = serde_json::from_value(pod)?;
    // The API server's admission reads classes from a cache of its own, which may not have this one yet.
    wait::poll("the urgent pod is admitted", wait::SOON, async || {
        match tenant.pods().create(&PostParams::default(), &pod).await {
            Ok(_) => Ok(Some(())),
            Err(kube::Error::Api(status)) if status.message.contains("no PriorityClass") => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let disrupted = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let preempted = |reason: &Option<String>| reason.as_deref() == Some("PreemptionByScheduler");
        conditions.into_iter().any(|condition| condition.type_ == "DisruptionTarget" && preempted(&condition.reason))
    };
    wait::until(&tenant.pods(), "main-0", "the member is preempted", wait::SOON, |pod| pod.is_some_and(disrupted))
        .await?;
    release(tenant, "main-0").await?;
    let status = tenant.ended("patient").await?;
    ensure!(status.phase == JobPhase::Succeeded && status.attempts.len() == 1, "{status:?}");
    // The member's place is taken: the pool says so, within seconds.
    wait::until(&tenant.pools(), "main", "Ready says that no node has a seat", wait::SOON, |pool| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status
            .and_then(|status| conditions::find(&status.conditions, conditions::READY))
            .is_some_and(|ready| ready.reason == "Unschedulable" && ready.message.contains(SEAT))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn kubectl_get_shows_what_matters_in_80_columns() {
    Tenant::with("columns", async |tenant| {
        tenant.pool("main").spec(|spec| spec.cache.size = "100Gi".into()).create_ready().await?;
        let broken = tenant.pool("broken").spec(|spec| spec.registries[0].ca_ref.config_map = "nothing".into());
        broken.create().await?;
        wait::until(&tenant.pools(), "broken", "it says what is wrong", wait::SOON, |pool| {
            let status = pool.and_then(|pool| pool.status.as_ref());
            status
                .and_then(|status| conditions::find(&status.conditions, conditions::READY))
                .is_some_and(|ready| ready.reason == "CertificateAuthorityNotFound")
        })
        .await?;
        wait::until(&tenant.pools(), "main", "the version is known", wait::SOON, |pool| {
            pool.and_then(|pool| pool.status.as_ref()).is_some_and(|status| status.version.is_some())
        })
        .await?;
        let output = tenant.environment.kubectl(&["-n", &tenant.namespace, "get", "bp"]).await?;
        let text = String::from_utf8(output.stdout)?;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<Vec<String>> = text.lines().map(words).collect();
        ensure!(lines[0] == ["NAME", "READY", "REASON", "MEMBERS", "VERSION", "CACHE", "AGE"], "{text}");
        ensure!(lines[1][..4] == ["broken", "False", "CertificateAuthorityNotFound", "0/1"], "{text}");
        ensure!(lines[2][..6] == ["main", "True", "Ready", "1/1", "v0.33.1", "100Gi"], "{text}");
        let widest = text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or_default();
        ensure!(widest <= 80, "{widest} columns:\n{text}");

        // The daemon of the test cluster is one that is warned about.
        let status = tenant.pools().get("main").await?.status.context("status")?;
        let advised = conditions::find(&status.conditions, conditions::BUILDKIT_UP_TO_DATE).context("condition")?;
        ensure!((advised.status.as_str(), advised.reason.as_str()) == ("False", "BelowAdvisedVersion"), "{advised:?}");
        ensure!(advised.message.contains("main-0 (v0.33.1); set spec.buildkit.image"), "{advised:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_operator_deletes_members_only_and_changes_its_finalizer_only() {
    Tenant::with("operator-fence", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let client = tenant.environment.as_operator().await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &tenant.namespace);
        let stranger = json!({
            "metadata": {"name": "stranger", "labels": {labels::POOL: "main"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "sleep", "image": BASE, "command": ["sleep", "600"]}]},
        });
        tenant.pods().create(&PostParams::default(), &serde_json::from_value(stranger)?).await?;
        let refusal = |refused: Option<kube::Error>| refused.context("the operator was let through").map(|it| it.to_string());
        let refused = pods.delete("stranger", &DeleteParams::default()).await.err();
        let message = refusal(refused)?;
        ensure!(message.contains("only members of BuildPools: pod stranger is none"), "{message}");
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let message = refusal(pods.delete("main-0", &at_once).await.err())?;
        ensure!(message.contains("does not shorten the time"), "{message}");

        let pools: Api<BuildPool> = Api::namespaced(client, &tenant.namespace);
        for patch in [
            json!({"spec": {"scaling": {"minMembers": 2}}}),
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"metadata": {"annotations": {"a": "b"}}}),
            json!({"metadata": {"finalizers": [labels::FINALIZER, "example.com/other"]}}),
        ] {
            let refused = pools.patch("main", &PatchParams::default(), &Patch::Merge(&patch)).await.err();
            let message = refusal(refused)?;
            ensure!(message.contains("the finalizer buildpools.dev/builds and nothing else"), "{patch}: {message}");
        }
        pods.delete("main-0", &DeleteParams::default()).await?;
        Ok(())
    })
    .await;
}

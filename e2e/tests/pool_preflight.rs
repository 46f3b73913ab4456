//! What keeps a pool's pods out of a namespace is said before they are made, and the pool comes when it is mended.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildPool, JobPhase, PoolProfile};
use buildpools_crds::{conditions, names};
use buildpools_e2e::harness::{Tenant, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

fn ready(pool: Option<&BuildPool>, status: &str) -> Option<(String, String)> {
    let conditions = &pool?.status.as_ref()?.conditions;
    let ready = conditions::find(conditions, conditions::READY).filter(|ready| ready.status == status)?;
    Some((ready.reason.clone(), ready.message.clone()))
}

async fn says(tenant: &Tenant, pool: &str, reason: &str, words: &[&str]) -> anyhow::Result<()> {
    let what = format!("Ready=False, {reason}, with {words:?}");
    wait::until(&tenant.pools(), pool, &what, wait::SOON, |pool| {
        ready(pool, "False").is_some_and(|(is, text)| is == reason && words.iter().all(|word| text.contains(word)))
    })
    .await?;
    Ok(())
}

async fn builds(tenant: &Tenant, pool: &str) -> anyhow::Result<()> {
    wait::until(&tenant.pools(), pool, "the pool is ready", wait::BUILD, |pool| ready(pool, "True").is_some()).await?;
    let job = tenant.job(&format!("on-{pool}"), pool).inline("FROM scratch\nCOPY Dockerfile /\n");
    let status = job.run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    Ok(())
}

async fn label(tenant: &Tenant, labels: Value) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let namespaces: Api<Namespace> = Api::all(tenant.environment.client.clone());
    namespaces.patch(&tenant.namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}

#[tokio::test]
async fn pool_preflight_names_what_pod_security_refuses_and_the_remedy_helps() {
    Tenant::with("preflight-refused", async |tenant| {
        label(tenant, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await?;
        let pools = [("rootless", PoolProfile::Rootless), ("mapped", PoolProfile::UserNamespace)];
        for (pool, profile) in pools {
            tenant.pool(pool).spec(|spec| spec.profile = profile).create().await?;
        }
        for (pool, _) in pools {
            let remedy = "pod-security.kubernetes.io/enforce=privileged";
            says(tenant, pool, "PodRefused", &["violates PodSecurity \"restricted:latest\"", remedy]).await?;
            let set = tenant.api::<StatefulSet>().get_opt(&names::stateful_set(pool)).await?;
            ensure!(set.is_none(), "a StatefulSet whose pods are refused: {set:?}");
        }
        label(tenant, json!({"pod-security.kubernetes.io/enforce": "privileged"})).await?;
        for (pool, _) in pools {
            builds(tenant, pool).await?;
        }
        Ok(())
    })
    .await;
}

/// A pool that runs keeps its members when its newer form is refused.
#[tokio::test]
async fn pool_preflight_leaves_running_members_alone() {
    Tenant::with("preflight-running", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let before = tenant.pods().get("main-0").await?.metadata.uid;
        let spec = |class: Value| Patch::Merge(json!({"spec": {"pod": {"priorityClassName": class}}}));
        tenant.pools().patch("main", &PatchParams::default(), &spec(json!("no-such-class"))).await?;
        says(tenant, "main", "PodRefused", &["1 of 1 members are ready", "no-such-class"]).await?;
        builds_as_before(tenant).await?;
        tenant.pools().patch("main", &PatchParams::default(), &spec(Value::Null)).await?;
        builds(tenant, "main").await?;
        ensure!(tenant.pods().get("main-0").await?.metadata.uid == before, "the member was replaced");
        Ok(())
    })
    .await;
}

async fn builds_as_before(tenant: &Tenant) -> anyhow::Result<()> {
    let status = tenant.job("meanwhile", "main").inline("FROM scratch\nCOPY Dockerfile /\n").run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    Ok(())
}

fn admission(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind))
}

/// A policy as clusters have them: whoever does not say it may not gain privileges.
fn policy(tenant: &Tenant) -> [(ApiResource, Value); 2] {
    let name = &tenant.namespace;
    let mutation = "Object{spec: Object.spec{initContainers: object.spec.initContainers.map(c, \
                    Object.spec.initContainers{name: c.name, securityContext: \
                    Object.spec.initContainers.securityContext{allowPrivilegeEscalation: false}})}}";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]},
            ]},
            "matchConditions": [{"name": "has-init-containers", "expression": "has(object.spec.initContainers)"}],
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": mutation}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    });
    [(admission("MutatingAdmissionPolicy"), policy), (admission("MutatingAdmissionPolicyBinding"), binding)]
}

#[tokio::test]
async fn pool_preflight_names_what_a_policy_changes_and_the_pool_comes_without_it() {
    Tenant::with("preflight-mutated", async |tenant| {
        let client = tenant.environment.client.clone();
        let objects = policy(tenant);
        for (resource, object) in &objects {
            let api = Api::<DynamicObject>::all_with(client.clone(), resource);
            let object = serde_json::from_value(object.clone())?;
            api.create(&PostParams::default(), &object).await.with_context(|| resource.kind.clone())?;
        }
        let shown = async {
            // The API server takes a moment to act by a new policy.
            wait::poll("the policy is in force", wait::SOON, async || {
                let pod = serde_json::from_value(json!({
                    "metadata": {"name": "probe"},
                    "spec": {
                        "initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "c", "image": "i"}],
                    },
                }))?;
                let dry_run = PostParams { dry_run: true, ..PostParams::default() };
                let spec = serde_json::to_value(tenant.pods().create(&dry_run, &pod).await?.spec)?;
                let set = &spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"];
                Ok((set == &json!(false)).then_some(()))
            })
            .await?;
            tenant.pool("main").create().await?;
            let field =
                "spec.initContainers[buildkitd].securityContext.allowPrivilegeEscalation was unset and became false";
            says(tenant, "main", "PodMutated", &[field, "exempt pods with the label buildpools.dev/pool=main"]).await
        }
        .await;
        for (resource, _) in objects.iter().rev() {
            let api = Api::<DynamicObject>::all_with(client.clone(), resource);
            api.delete(&tenant.namespace, &DeleteParams::default()).await?;
        }
        shown?;
        builds(tenant, "main").await
    })
    .await;
}

/// Found before a pod is made, not when a node tries.
#[tokio::test]
async fn pool_preflight_of_a_runtime_class_that_does_not_exist() {
    Tenant::with("preflight-runtime", async |tenant| {
        tenant.pool("main").spec(|spec| spec.pod.runtime_class_name = Some("no-such-runtime".into())).create().await?;
        says(tenant, "main", "PodRefused", &["no-such-runtime"]).await?;
        let without = Patch::Merge(json!({"spec": {"pod": {"runtimeClassName": null}}}));
        tenant.pools().patch("main", &PatchParams::default(), &without).await?;
        builds(tenant, "main").await
    })
    .await;
}

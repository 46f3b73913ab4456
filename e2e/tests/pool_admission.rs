//! Who may make what carries a pool's exceptions, with the identities of a real cluster: the operator's token, that of a
//! namespace's administrator, and Kubernetes' own controllers.

#![expect(clippy::needless_pass_by_value, reason = "what is given is written in place, as json!(…)")]

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_e2e::harness::{Tenant, wait};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A client with a token of this ServiceAccount and nothing else.
async fn client_of(tenant: &Tenant, namespace: &str, account: &str) -> anyhow::Result<Client> {
    let accounts: Api<ServiceAccount> = Api::namespaced(tenant.environment.client.clone(), namespace);
    let request = accounts.create_token_request(account, &PostParams::default(), &TokenRequest::default()).await?;
    tenant.environment.client_with_token(&request.status.context("token")?.token).await
}

/// The administrator of the tenant's namespace: Kubernetes' own role `admin`.
async fn administrator(tenant: &Tenant) -> anyhow::Result<Client> {
    let account = json!({"metadata": {"name": "administrator"}});
    tenant.api::<ServiceAccount>().create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let binding = json!({
        "metadata": {"name": "administrator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "administrator", "namespace": tenant.namespace}],
    });
    tenant.api::<RoleBinding>().create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    let client = client_of(tenant, &tenant.namespace, "administrator").await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &tenant.namespace);
    wait::poll("the role is in force", wait::SOON, async || {
        Ok(pods.list(&kube::api::ListParams::default()).await.is_ok().then_some(()))
    })
    .await?;
    Ok(client)
}

async fn create<K>(client: &Client, namespace: &str, object: Value, dry_run: bool) -> Result<(), String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let object = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let params = PostParams { dry_run, ..PostParams::default() };
    api.create(&params, &object).await.map(drop).map_err(|error| error.to_string())
}

fn refused(result: Result<(), String>, words: &str) -> anyhow::Result<()> {
    let message = result.err().with_context(|| format!("let in, and not refused with {words:?}"))?;
    ensure!(message.contains(words), "{message}");
    Ok(())
}

/// Puts the members of one object into another.
fn add(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}

fn template(labels: Value) -> Value {
    json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "x", "image": "docker.io/library/busybox:stable", "command": ["sleep", "600"]}]},
    })
}

fn set(name: &str, own: Value, of_pods: Value) -> Value {
    let mut labels = json!({"app": name});
    add(&mut labels, of_pods);
    json!({
        "metadata": {"name": name, "labels": own},
        "spec": {
            "replicas": 1, "serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": template(labels),
        },
    })
}

fn pod(name: &str, labels: Value, spec: Value) -> Value {
    let mut pod = template(labels);
    pod["metadata"]["name"] = json!(name);
    add(&mut pod["spec"], spec);
    pod
}

fn of_container(context: Value) -> Value {
    json!({"containers": [{"name": "x", "image": "docker.io/library/busybox:stable", "securityContext": context}]})
}

fn probed(field: &str, probe: Value) -> Value {
    json!({"containers": [{"name": "x", "image": "i", field: probe}]})
}

/// What Pod Security `baseline` forbids, by the field that is named.
fn exceptions() -> Vec<(&'static str, Value)> {
    vec![
        ("hostNetwork", json!({"hostNetwork": true})),
        ("privileged", of_container(json!({"privileged": true}))),
        ("capabilities.add", of_container(json!({"capabilities": {"add": ["SYS_ADMIN"]}}))),
        ("hostPath", json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]})),
        ("seccomp", of_container(json!({"seccompProfile": {"type": "Unconfined"}}))),
        ("AppArmor", json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})),
        ("AppArmor", of_container(json!({"appArmorProfile": {"type": "Unconfined"}}))),
        ("seccomp", json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
        ("seLinuxOptions", of_container(json!({"seLinuxOptions": {"user": "system_u"}}))),
        ("hostPID", json!({"hostPID": true})),
        (
            "hostPort",
            json!({"containers": [{"name": "x", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
        ),
        (
            "privileged",
            json!({"initContainers": [{"name": "i", "image": "i", "securityContext": {"privileged": true}}]}),
        ),
        ("procMount", {
            let mut spec = of_container(json!({"procMount": "Unmasked"}));
            spec["hostUsers"] = json!(false);
            spec
        }),
        ("seLinuxOptions", json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}})),
        ("sysctls", json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}})),
        ("httpGet.host", probed("livenessProbe", json!({"httpGet": {"host": "192.0.2.1", "port": 80}}))),
        ("tcpSocket.host", probed("readinessProbe", json!({"tcpSocket": {"host": "192.0.2.1", "port": 80}}))),
        ("httpGet.host", probed("lifecycle", json!({"preStop": {"httpGet": {"host": "192.0.2.1", "port": 80}}}))),
    ]
}

/// Those of them that a pool's pod may have.
const OF_POOLS: [&str; 3] = ["seccomp", "AppArmor", "procMount"];

/// The tenant's namespace admits all pods by Pod Security, and lets only pools use that.
async fn enforce(tenant: &Tenant) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(tenant.environment.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {"buildpools.dev/pod-admission": "enforce"}}}));
    namespaces.patch(&tenant.namespace, &PatchParams::default(), &patch).await?;
    let privileged = pod("probe", json!({}), json!({"hostNetwork": true}));
    wait::poll("the policies look at the namespace", wait::SOON, async || {
        let made = create::<Pod>(&tenant.environment.client, &tenant.namespace, privileged.clone(), true).await;
        Ok(made.is_err().then_some(()))
    })
    .await
}

#[tokio::test]
async fn pool_isolation_only_the_operator_writes_stateful_sets_of_pools() {
    Tenant::with("admission-sets", async |tenant| {
        let user = administrator(tenant).await?;
        let namespace = tenant.namespace.as_str();
        let of_pool = || json!({"buildpools.dev/pool": "mine"});
        create::<StatefulSet>(&user, namespace, set("mine", of_pool(), json!({})), true)
            .await
            .map_err(anyhow::Error::msg)
            .context("a namespace that has not asked for it")?;
        enforce(tenant).await?;

        let words = "only the buildpools operator writes StatefulSets with the label buildpools.dev/pool";
        for (own, of_pods) in [(of_pool(), json!({})), (json!({}), of_pool())] {
            refused(create::<StatefulSet>(&user, namespace, set("mine", own, of_pods), true).await, words)?;
        }
        create::<StatefulSet>(&user, namespace, set("other", json!({}), json!({})), false)
            .await
            .map_err(anyhow::Error::msg)?;

        // The operator may, Kubernetes makes the pods and cleans up, and nobody else changes what it made.
        tenant.pool("main").create_ready().await?;
        let sets: Api<StatefulSet> = Api::namespaced(user, namespace);
        for patch in [
            json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}),
            json!({"metadata": {"labels": {"buildpools.dev/pool": null}}}),
        ] {
            let written = sets.patch("main", &PatchParams::default(), &Patch::Merge(&patch)).await;
            refused(written.map(drop).map_err(|error| error.to_string()), words)?;
        }
        let foreground = kube::api::DeleteParams::foreground();
        tenant.pools().delete("main", &foreground).await?;
        wait::until(&tenant.api::<StatefulSet>(), "main", "it is collected", wait::SOON, |set| set.is_none()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_isolation_pods_with_a_pools_exceptions_come_from_its_stateful_set() {
    Tenant::with("admission-pods", async |tenant| {
        let user = administrator(tenant).await?;
        let namespace = tenant.namespace.as_str();
        enforce(tenant).await?;
        tenant.pool("main").create_ready().await?;

        // With the label, made by hand or by another controller.
        let words = "pods with the label buildpools.dev/pool are made by the StatefulSet controller";
        let labelled = || json!({"buildpools.dev/pool": "main"});
        refused(create::<Pod>(&user, namespace, pod("evil", labelled(), json!({})), true).await, words)?;
        let mut owned = pod("evil", labelled(), json!({}));
        owned["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "main", "controller": true,
            "uid": tenant.api::<StatefulSet>().get("main").await?.metadata.uid,
        }]);
        refused(create::<Pod>(&user, namespace, owned, true).await, words)?;
        let deployment = json!({
            "metadata": {"name": "evil"},
            "spec": {"selector": {"matchLabels": labelled()}, "template": template(labelled())},
        });
        create::<Deployment>(&user, namespace, deployment, false).await.map_err(anyhow::Error::msg)?;
        wait::until(&tenant.api::<Deployment>(), "evil", "its pods are refused", wait::SOON, |found| {
            let conditions = found.and_then(|d| d.status.as_ref()).and_then(|s| s.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| {
                c.type_ == "ReplicaFailure" && c.message.as_ref().is_some_and(|message| message.contains(words))
            })
        })
        .await?;

        // The label, afterwards.
        create::<Pod>(&user, namespace, pod("plain", json!({}), json!({})), false).await.map_err(anyhow::Error::msg)?;
        let pods: Api<Pod> = Api::namespaced(user.clone(), namespace);
        for (name, label) in [("plain", json!("main")), ("main-0", Value::Null), ("main-0", json!("other"))] {
            let patch = Patch::Merge(json!({"metadata": {"labels": {"buildpools.dev/pool": label}}}));
            let written = pods.patch(name, &PatchParams::default(), &patch).await;
            refused(written.map(drop).map_err(|error| error.to_string()), "cannot be added, changed or removed")?;
        }
        stays_as_it_is(tenant, &user).await?;
        let debug = json!({"spec": {"ephemeralContainers": [
            {"name": "debug", "image": "docker.io/library/busybox:stable", "targetContainerName": "runner"},
        ]}});
        let written =
            tenant.pods().patch_ephemeral_containers("main-0", &PatchParams::default(), &Patch::Strategic(debug)).await;
        refused(written.map(drop).map_err(|error| error.to_string()), "takes no ephemeral containers")?;

        // The exceptions, without the label.
        for (field, spec) in exceptions() {
            let made = create::<Pod>(&user, namespace, pod("evil", json!({}), spec), true).await;
            let message = made.err().with_context(|| format!("{field} is let in"))?;
            ensure!(message.contains(BASELINE) && message.contains(field), "{field}: {message}");
        }
        Ok(())
    })
    .await;
}

const BASELINE: &str = "may deviate from Pod Security baseline here";

/// A member's images and label are not changed, and its runner's tokens are not given to others.
async fn stays_as_it_is(tenant: &Tenant, user: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(user.clone(), &tenant.namespace);
    let by = PatchParams::default();
    for (list, container) in [("containers", names::RUNNER_CONTAINER), ("initContainers", names::DAEMON_CONTAINER)] {
        let patch = json!({"spec": {list: [{"name": container, "image": "docker.io/library/busybox:stable"}]}});
        let written = pods.patch("main-0", &by, &Patch::Strategic(patch)).await;
        refused(written.map(drop).map_err(|error| error.to_string()), "image of a pool's pod cannot be changed")?;
    }
    for (name, label) in [("plain", json!("main")), ("main-0", Value::Null)] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"buildpools.dev/pool": label}}}));
        let written = tenant.pods().patch_status(name, &by, &patch).await;
        refused(written.map(drop).map_err(|error| error.to_string()), "cannot be added, changed or removed")?;
    }

    let accounts: Api<ServiceAccount> = Api::namespaced(user.clone(), &tenant.namespace);
    let (how, request) = (PostParams::default(), TokenRequest::default());
    let token = accounts.create_token_request(&names::runner("main"), &how, &request).await;
    refused(token.map(drop).map_err(|error| error.to_string()), "only kubelets create tokens of the runners of pools")?;
    accounts.create_token_request("administrator", &how, &request).await.context("a token of his own")?;
    Ok(())
}

/// A StatefulSet that somebody has planted before the namespace got its label: Kubernetes' controller makes its pods.
#[tokio::test]
async fn pool_isolation_a_planted_stateful_set_gets_no_more_than_a_member_needs() {
    Tenant::with("admission-planted", async |tenant| {
        let namespace = tenant.namespace.as_str();
        let labels = || json!({"buildpools.dev/pool": "planted"});
        let mut planted = set("planted", labels(), labels());
        planted["spec"]["replicas"] = json!(0);
        create::<StatefulSet>(&tenant.environment.client, namespace, planted, false)
            .await
            .map_err(anyhow::Error::msg)?;
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "planted", "controller": true,
            "uid": tenant.api::<StatefulSet>().get("planted").await?.metadata.uid,
        }]);
        enforce(tenant).await?;

        let controller = "system:serviceaccount:kube-system:statefulset-controller";
        let controller = tenant.environment.client_as(controller).await?;
        let made = async |spec: Value| {
            let mut pod = pod("planted-0", labels(), spec);
            pod["metadata"]["ownerReferences"] = owner.clone();
            create::<Pod>(&controller, namespace, pod, true).await
        };
        let mut needed = of_container(json!({
            "capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}, "procMount": "Unmasked",
            "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"},
        }));
        needed["hostUsers"] = json!(false);
        made(needed).await.map_err(anyhow::Error::msg).context("what a member needs")?;
        for (field, spec) in exceptions() {
            let made = made(spec).await;
            if OF_POOLS.contains(&field) {
                made.map_err(anyhow::Error::msg).context(field)?;
                continue;
            }
            let message = made.err().with_context(|| format!("{field} is let in"))?;
            ensure!(message.contains(BASELINE) && message.contains(field), "{field}: {message}");
        }
        Ok(())
    })
    .await;
}

/// As the operator writes it into what belongs to a pool.
fn owner(pool: &str) -> Value {
    json!([{
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool", "name": pool, "controller": true,
        "uid": "00000000-0000-0000-0000-000000000000",
    }])
}

#[tokio::test]
async fn pool_isolation_the_operator_binds_runners_only_and_makes_no_pods() {
    Tenant::with("admission-operator", async |tenant| {
        let operator = client_of(tenant, "buildpools-system", "buildpools-operator").await?;
        let namespace = tenant.namespace.as_str();
        let binding = |role: Value, subject: Value| {
            let labels = json!({"buildpools.dev/pool": "main"});
            let metadata = json!({"name": names::runner("main"), "labels": labels, "ownerReferences": owner("main")});
            json!({"metadata": metadata, "roleRef": role, "subjects": [subject]})
        };
        let role =
            |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let runner = || json!({"kind": "ServiceAccount", "name": names::runner("main"), "namespace": namespace});
        let given = || role("ClusterRole", names::RUNNER_CLUSTER_ROLE);
        create::<RoleBinding>(&operator, namespace, binding(given(), runner()), true)
            .await
            .map_err(anyhow::Error::msg)?;

        let subjects = [
            json!({"kind": "ServiceAccount", "name": names::runner("main"), "namespace": "kube-system"}),
            json!({"kind": "ServiceAccount", "name": "default", "namespace": namespace}),
            json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": names::runner("main")}),
            json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}),
        ];
        for subject in subjects {
            let made = create::<RoleBinding>(&operator, namespace, binding(given(), subject.clone()), true).await;
            refused(made, "binds roles only to the ServiceAccounts of pools' runners")
                .with_context(|| subject.to_string())?;
        }
        // RBAC itself refuses other roles, whatever the policy says.
        let made =
            create::<RoleBinding>(&operator, namespace, binding(role("ClusterRole", "admin"), runner()), true).await;
        refused(made, "forbidden")?;
        // A role that gives nothing passes RBAC's check and not the policy.
        let empty = json!({"metadata": {"name": "empty"}, "rules": []});
        tenant
            .api::<k8s_openapi::api::rbac::v1::Role>()
            .create(&PostParams::default(), &serde_json::from_value(empty)?)
            .await?;
        let made = create::<RoleBinding>(&operator, namespace, binding(role("Role", "empty"), runner()), true).await;
        refused(made, "binds no other role than the ClusterRole buildpools-runner")?;

        let harmless = || pod("made", json!({}), json!({}));
        create::<Pod>(&operator, namespace, harmless(), true).await.map_err(anyhow::Error::msg)?;
        refused(create::<Pod>(&operator, namespace, harmless(), false).await, "creates pods as a dry run only")
    })
    .await;
}

/// A StatefulSet like the operator's, and what is wrong with it.
fn member_set(change: impl FnOnce(&mut Value)) -> Value {
    let labels = || json!({"buildpools.dev/pool": "main"});
    let mut set = set("main", labels(), labels());
    set["metadata"]["ownerReferences"] = owner("main");
    set["spec"]["template"]["spec"]["serviceAccountName"] = json!(names::runner("main"));
    set["spec"]["template"]["spec"]["volumes"] = json!([
        {"name": "login", "secret": {"secretName": "s", "items": [{"key": ".dockerconfigjson", "path": "p"}]}},
    ]);
    change(&mut set);
    set
}

#[tokio::test]
async fn pool_isolation_the_operator_writes_objects_of_pools_only() {
    Tenant::with("admission-writes", async |tenant| {
        let operator = tenant.environment.as_operator().await?;
        let namespace = tenant.namespace.as_str();
        create::<StatefulSet>(&operator, namespace, member_set(|_| {}), true).await.map_err(anyhow::Error::msg)?;

        let belongs = "the operator writes only what belongs to a BuildPool";
        let spec = |change: Value| member_set(|set| add(&mut set["spec"]["template"]["spec"], change));
        let privileged = of_container(json!({"privileged": true}));
        let secret = json!({"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}, "name": "E"});
        let cases = [
            (member_set(|set| set["metadata"]["ownerReferences"] = json!([])), belongs),
            (member_set(|set| set["metadata"]["ownerReferences"] = owner("other")), belongs),
            (member_set(|set| set["metadata"]["ownerReferences"][0]["controller"] = json!(false)), belongs),
            (member_set(|set| set["metadata"]["labels"] = json!({})), "carries the label buildpools.dev/pool"),
            (spec(json!({"serviceAccountName": "default"})), "serviceAccountName"),
            (spec(json!({"hostPID": true})), "hostPID"),
            (spec(privileged), "privileged"),
            (spec(of_container(json!({"capabilities": {"add": ["SYS_ADMIN"]}}))), "capabilities"),
            (spec(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]})), "volumes"),
            (spec(json!({"volumes": [{"name": "s", "secret": {"secretName": "s"}}]})), "volumes"),
            (spec(json!({"containers": [{"name": "x", "image": "i", "env": [secret]}]})), "env or envFrom of Secrets"),
        ];
        for (set, words) in cases {
            refused(create::<StatefulSet>(&operator, namespace, set, true).await, words)?;
        }

        // Somebody else's objects do not become a pool's, and go only with their owner.
        let foreign = set("main", json!({}), json!({}));
        create::<StatefulSet>(&tenant.environment.client, namespace, foreign, false)
            .await
            .map_err(anyhow::Error::msg)?;
        let budget = json!({
            "metadata": {"name": names::disruption_budget("main")},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
        });
        create::<PodDisruptionBudget>(&tenant.environment.client, namespace, budget, false)
            .await
            .map_err(anyhow::Error::msg)?;
        let by = PatchParams::default();
        let ours = json!({"metadata": {"labels": {"buildpools.dev/pool": "main"}, "ownerReferences": owner("main")}});
        let sets: Api<StatefulSet> = Api::namespaced(operator.clone(), namespace);
        let written = sets.patch("main", &by, &Patch::Merge(&ours)).await;
        refused(written.map(drop).map_err(|error| error.to_string()), belongs)?;
        let configuration: Api<ConfigMap> = Api::namespaced(operator.clone(), namespace);
        let written = configuration.patch("registry-ca", &by, &Patch::Merge(json!({"data": {"x": "y"}}))).await;
        refused(written.map(drop).map_err(|error| error.to_string()), belongs)?;
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(operator, namespace);
        let deleted = budgets.delete(&names::disruption_budget("main"), &DeleteParams::default()).await;
        let words = "deletes only StatefulSets and PodDisruptionBudgets that belong to a BuildPool";
        refused(deleted.map(drop).map_err(|error| error.to_string()), words)
    })
    .await;
}

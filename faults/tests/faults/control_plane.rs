//! The control plane itself: what the other tests take for granted.

use buildpools_crds::lifecycle::Member;
use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use buildpools_faults::control_plane::{ControlPlane, OPERATOR, OPERATOR_NAMESPACE, Options, User};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other:?}"),
    }
}

async fn assign(client: &Client, namespace: &str, job: &str, pod: &str) -> kube::Result<BuildJob> {
    let jobs: Api<BuildJob> = Api::namespaced(client.clone(), namespace);
    let status = json!({"status": {"phase": "Bound", "assignedTo": pod, "member": "main-0"}});
    jobs.patch_status(job, &PatchParams::default(), &Patch::Merge(&status)).await
}

/// RBAC and the policies are in force, and two planes side by side know nothing of each other.
#[tokio::test]
async fn roles_and_policies_are_in_force() {
    let (plane, other) = tokio::join!(ControlPlane::start(Options::default()), ControlPlane::shared());
    let (plane, other) = (plane.unwrap(), other.unwrap());
    let admin = plane.client(User::Admin).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let elsewhere: Api<Namespace> = Api::all(other.client(User::Admin).await.unwrap());
    assert!(elsewhere.get_opt("team").await.unwrap().is_none());

    let operator = plane.client(User::Operator).await.unwrap();
    Api::<BuildPool>::all(operator.clone()).list(&ListParams::default()).await.unwrap();
    let refused = Api::<Secret>::all(operator.clone()).list(&ListParams::default()).await.unwrap_err();
    assert_eq!(code(refused), 403);
    let leases: Api<Lease> = Api::namespaced(operator, OPERATOR_NAMESPACE);
    assert!(leases.get_opt(OPERATOR).await.unwrap().is_none());

    let jobs: Api<BuildJob> = Api::namespaced(admin.clone(), "team");
    let job = json!({
        "metadata": {"name": "app"},
        "spec": {
            "poolRef": {"name": "main"},
            "context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}},
        },
    });
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    assign(&admin, "team", "app", "mine").await.unwrap();
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(admin, "team");
    let binding = json!({
        "metadata": {"name": "runner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "buildpools-runner"},
        "subjects": [{"kind": "ServiceAccount", "name": "buildpool-main-runner", "namespace": "team"}],
    });
    let runner = async |uid: &str| {
        let pod = Member { pod: "main-0".into(), uid: uid.into() };
        plane.client(User::Runner { namespace: "team", pool: "main", pod: &pod }).await.unwrap()
    };
    assert_eq!(code(assign(&runner("mine").await, "team", "app", "mine").await.unwrap_err()), 403, "no role");
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let mine = runner("mine").await;
    // RBAC takes a moment to know a new binding.
    while let Err(error) = assign(&mine, "team", "app", "mine").await {
        assert_eq!(code(error), 403);
        tokio::task::yield_now().await;
    }
    assert_eq!(code(assign(&runner("other").await, "team", "app", "other").await.unwrap_err()), 403, "not its job");
}

/// What was written is there after the API server was killed, and a frozen one answers later.
#[tokio::test]
async fn the_api_server_can_be_stopped_frozen_and_started() {
    let plane = ControlPlane::start(Options { audit: true }).await.unwrap();
    let client = plane.client(User::Admin).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    plane.stop_api_server();
    assert!(!matches!(maps.get("kept").await.unwrap_err(), kube::Error::Api(_)), "nobody is there to answer");
    plane.start_api_server().await.unwrap();
    maps.get("kept").await.unwrap();
    plane.freeze_api_server();
    let read = tokio::spawn({
        let maps = maps.clone();
        async move { maps.get("kept").await }
    });
    plane.thaw_api_server();
    read.await.unwrap().unwrap();
    let log = std::fs::read_to_string(plane.audit_log()).unwrap();
    assert!(log.contains(r#""name":"kept""#), "{log}");
    let directory = plane.layout().dir.clone();
    drop(plane);
    assert!(!directory.exists());
}

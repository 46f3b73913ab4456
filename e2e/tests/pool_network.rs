//! Who a member can talk to: DNS, the API server and what its pool names; never another pool, nor the metadata service.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile::{Rootless, UserNamespace};
use buildpools_crds::v1alpha1::{
    BuildPoolSpec, EgressPods, EgressPort, EgressRule, FailureReason, Internet, JobPhase, PoolProfile, Protocol,
};
use buildpools_e2e::cluster::layout::{API_PORT, REGISTRY_PORT};
use buildpools_e2e::cluster::outside::{CREDENTIALS_PATH, METADATA, PRIVATE, PUBLIC};
use buildpools_e2e::harness::Reach::{Blocked, Open};
use buildpools_e2e::harness::reach::{BASH, BUSYBOX, Target, results, script};
use buildpools_e2e::harness::{BASE, Reach, Tenant, wait};
use futures::future::{try_join, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::PostParams;
use serde_json::{Value, from_value, json};

/// A port that every member listens on in these tests, as a RUN step might.
const PORT: u16 = 7777;

/// One of the five pools.
struct Member<'a> {
    tenant: &'a Tenant,
    pool: &'static str,
    address: String,
}

impl Member<'_> {
    fn pod(&self) -> String {
        format!("{}-0", self.pool)
    }

    /// The ways to this member: its address, its host name, its Service.
    fn ways(&self) -> Vec<Target> {
        let service = format!("{}.{}.svc.cluster.local", names::service(self.pool), self.tenant.namespace);
        let name = |way: &str| format!("{}/{} {way}", self.tenant.namespace, self.pool);
        vec![
            (name("address"), self.address.clone(), PORT),
            (name("host name"), format!("{}.{service}", self.pod()), PORT),
            (name("service"), service, PORT),
        ]
    }
}

fn cidr(cidr: &str, ports: &[u16]) -> EgressRule {
    let port = |port: &u16| EgressPort { port: i32::from(*port), end_port: None, protocol: Protocol::Tcp };
    EgressRule { cidr: Some(cidr.to_owned()), ports: ports.iter().map(port).collect(), ..EgressRule::default() }
}

fn internet() -> EgressRule {
    EgressRule { internet: Some(Internet {}), ..EgressRule::default() }
}

#[tokio::test]
async fn pools_reach_only_what_they_name_and_never_each_other() {
    Tenant::with_others("network-a", ["network-b", "network-c"], async |a, [b, c]| five_pools(a, b, c).await).await;
}

async fn member<'a>(
    tenant: &'a Tenant,
    pool: &'static str,
    profile: PoolProfile,
    egress: Option<Vec<EgressRule>>,
) -> anyhow::Result<Member<'a>> {
    let change = |spec: &mut BuildPoolSpec| {
        spec.profile = profile;
        spec.network.egress = egress;
    };
    tenant.pool(pool).spec(change).create_ready().await?;
    let pod = tenant.pods().get(&format!("{pool}-0")).await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the member has an address")?;
    // As a RUN step may do: something listens in the pod's network.
    let listen = format!(
        "setsid perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => {PORT}, Listen => 50, ReuseAddr => 1) or die; \
         close $c while $c = $s->accept' </dev/null >/dev/null 2>&1 & sleep 0.3; kill -0 $!"
    );
    tenant.exec(&format!("{pool}-0"), names::DAEMON_CONTAINER, &["sh", "-c", &listen]).await?;
    Ok(Member { tenant, pool, address })
}

async fn five_pools(a: &Tenant, b: &Tenant, c: &Tenant) -> anyhow::Result<()> {
    let servers = a.servers();
    let listed = cidr(&format!("{}/32", PUBLIC[0]), &[80]);
    let everything = cidr("0.0.0.0/0", &[]);
    let members = try_join_all(vec![
        member(a, "named", Rootless, Some(vec![servers.clone(), listed])),
        member(a, "wide", UserNamespace, Some(vec![everything])),
        member(b, "closed", Rootless, Some(vec![])),
        member(b, "internet", UserNamespace, Some(vec![servers.clone(), internet()])),
        member(c, "silent", Rootless, None),
    ])
    .await?;
    a_pod_outside(a, &members).await?;
    let others = try_join_all(members.iter().map(|from| others(from, &members)));
    let (probes, ()) = try_join(others, destinations(&members)).await?;
    ensure!(probes.iter().sum::<usize>() == 5 * 4 * 3, "{probes:?}");
    try_join_all(members.iter().filter(|member| ["named", "wide", "internet"].contains(&member.pool)).map(run_step))
        .await?;
    // A pool that may reach no registry says so.
    let closed = b.job("pulls", "closed").inline(&format!("FROM {BASE}\n")).spec(|spec| spec.infra_retries = Some(0));
    let failure = closed.run().await?.failure.context("the registry is not reached")?;
    ensure!(failure.reason == FailureReason::RegistryUnavailable, "{failure:?}");
    changed_at_once(b).await
}

/// What the probes would find if no policy stood in the way: an ordinary pod reaches everything that is no member.
async fn a_pod_outside(tenant: &Tenant, members: &[Member<'_>]) -> anyhow::Result<()> {
    let pod: Pod = from_value(json!({
        "metadata": {"name": "outsider"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "docker.io/library/busybox:stable", "imagePullPolicy": "Never",
            "command": ["sleep", "100000"],
        }]},
    }))?;
    tenant.pods().create(&PostParams::default(), &pod).await?;
    wait::until(&tenant.pods(), "outsider", "the pod runs", wait::SOON, |pod| {
        pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).is_some_and(|phase| phase == "Running")
    })
    .await?;
    let node = tenant.environment.cluster.node_ip.to_string();
    let node = node.as_str();
    let open = [(METADATA, 80), (PUBLIC[0], 80), (PUBLIC[1], 81), (PRIVATE, 80), (node, 80), (node, 10250)];
    let open = open.map(|(host, port)| ((format!("{host}:{port}"), host.to_owned(), port), Open));
    let closed = members.iter().flat_map(Member::ways).map(|target| (target, Blocked));
    let expected: Vec<(Target, Reach)> = open.into_iter().chain(closed).collect();
    tenant.reaches(("outsider", "main", BUSYBOX), &expected).await
}

/// From the daemon's container of one member to all others; how many attempts were made.
async fn others(from: &Member<'_>, members: &[Member<'_>]) -> anyhow::Result<usize> {
    let others = members.iter().filter(|to| to.address != from.address).flat_map(Member::ways);
    let others: Vec<_> = others.map(|target| (target, Blocked)).collect();
    let own = from.ways().into_iter().next().map(|target| (target, Open));
    // It listens: whoever is let through gets an answer.
    let all: Vec<_> = others.iter().cloned().chain(own).collect();
    from.tenant.reaches((&from.pod(), names::DAEMON_CONTAINER, BASH), &all).await?;
    Ok(others.len())
}

/// What each of the five reaches of the rest of the world.
async fn destinations(members: &[Member<'_>]) -> anyhow::Result<()> {
    let cluster = &members[0].tenant.environment.cluster;
    let node = cluster.node_ip.to_string();
    let expect = |pool: &str| -> Vec<(Target, Reach)> {
        let allowed = |pools: &[&str]| if pools.contains(&pool) { Open } else { Blocked };
        let wide = allowed(&["wide"]);
        [
            // DNS and the API server, directly and by its Service.
            (node.as_str(), 53, Open),
            (node.as_str(), API_PORT, Open),
            ("kubernetes.default.svc.cluster.local", 443, Open),
            // What a pool names, and what it does not.
            (node.as_str(), REGISTRY_PORT, allowed(&["named", "wide", "internet"])),
            (PUBLIC[0], 80, allowed(&["named", "wide", "internet", "silent"])),
            (PUBLIC[0], 81, allowed(&["wide", "internet", "silent"])),
            (PUBLIC[1], 80, allowed(&["wide", "internet", "silent"])),
            (PRIVATE, 80, wide),
            (node.as_str(), 80, wide),
            (node.as_str(), 10250, wide),
            // Nobody.
            (METADATA, 80, Blocked),
        ]
        .into_iter()
        .map(|(host, port, reach)| ((format!("{host}:{port}"), host.to_owned(), port), reach))
        .collect()
    };
    try_join_all(members.iter().map(async |member| {
        let expected = expect(member.pool);
        // A NetworkPolicy is the pod's: the runner's container reaches what the daemon's does. It has no shell.
        member.tenant.reaches((&member.pod(), names::DAEMON_CONTAINER, BASH), &expected).await
    }))
    .await
    .map(drop)
}

/// The same from a RUN step, with what it gets of the API.
async fn run_step(from: &Member<'_>) -> anyhow::Result<()> {
    let cluster = &from.tenant.environment.cluster;
    let node = cluster.node_ip.to_string();
    let node = node.as_str();
    let targets = [(METADATA, 80), (PRIVATE, 80), (node, 10250), (node, REGISTRY_PORT)];
    let targets = targets.map(|(host, port)| (format!("{host}:{port}"), host.to_owned(), port));
    let (namespace, own) = (&from.tenant.namespace, &from.pod());
    let paths = [
        "/version".to_owned(),
        "/healthz".to_owned(),
        "/api".to_owned(),
        format!("/api/v1/namespaces/{namespace}/secrets"),
        format!("/api/v1/namespaces/{namespace}/pods/{own}"),
        format!("/apis/buildpools.dev/v1alpha1/namespaces/{namespace}/buildjobs"),
    ];
    let metadata = format!("wget -q -T 3 -O - http://{METADATA}/{CREDENTIALS_PATH} && echo 'reach metadata: open'\n");
    let script = format!("{}{metadata}true\n", script(BUSYBOX, &targets));
    let start = std::fs::metadata(&cluster.audit_log)?.len();
    let dockerfile = format!("FROM {BASE}\nCOPY probe.sh /\nRUN sh /probe.sh\n");
    let job = from.tenant.job(&format!("probe-{}", from.pool), from.pool);
    let status = job.files(&[("Dockerfile", &dockerfile), ("probe.sh", &script)]).run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    let log = from.tenant.log(own, names::RUNNER_CONTAINER).await?;
    let found = results(&log)?;
    let (unlisted, registry) = if from.pool == "wide" { (Open, Open) } else { (Blocked, Open) };
    let expected = [Blocked, unlisted, unlisted, registry];
    for ((name, ..), expected) in targets.iter().zip(expected) {
        ensure!(found.get(name) == Some(&expected), "{}: {name}: {found:?}", from.pool);
    }
    ensure!(!found.contains_key("metadata"), "{log}");
    // What everybody may see who can reach an API server, and nothing of the cluster's content. From beside the step, as
    // its image speaks no TLS: the network is the same, and there is no token either.
    for (path, code) in paths.iter().zip(["200", "200", "403", "403", "403", "403"]) {
        let request = format!("GET {path} HTTP/1.0\\r\\nUser-Agent: run-step\\r\\n\\r\\n");
        let ask =
            format!("printf '{request}' | openssl s_client -quiet -connect kubernetes.default.svc:443 2>/dev/null");
        let said = from.tenant.exec(own, names::DAEMON_CONTAINER, &["sh", "-c", &ask]).await.unwrap_or_default();
        let status = said.lines().next().unwrap_or_default();
        ensure!(status.contains(code), "{path}: {status}, not {code}");
    }
    let log = audit(&cluster.audit_log, start)?;
    let calls: Vec<_> = log.iter().filter(|entry| entry["userAgent"] == "run-step").collect();
    ensure!(calls.len() >= paths.len(), "the audit log has {} calls", calls.len());
    ensure!(calls.iter().all(|entry| entry["user"]["username"] == "system:anonymous"), "{calls:#?}");
    Ok(())
}

fn audit(path: &std::path::Path, offset: u64) -> anyhow::Result<Vec<Value>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect())
}

/// A destination that is added is there for a member that runs: a mirror in the cluster, chosen by labels.
async fn changed_at_once(tenant: &Tenant) -> anyhow::Result<()> {
    let mirror: Pod = from_value(json!({
        "metadata": {"name": "mirror", "labels": {"app": "mirror"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "docker.io/library/busybox:stable", "imagePullPolicy": "Never",
            "command": ["sh", "-c", "httpd -p 80 && httpd -p 81 && exec sleep 100000"],
        }]},
    }))?;
    tenant.pods().create(&PostParams::default(), &mirror).await?;
    let ip = |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
    let found =
        wait::until(&tenant.pods(), "mirror", "the mirror has an address", wait::SOON, |pod| ip(pod).is_some()).await?;
    let address = ip(found.as_ref()).context("address")?;
    let target = |port: u16| (format!("mirror:{port}"), address.clone(), port);
    let from = ("closed-0", names::DAEMON_CONTAINER, BASH);
    tenant.reaches(from, &[(target(80), Blocked), (target(81), Blocked)]).await?;
    let before = tenant.pods().get("closed-0").await?.metadata.uid;

    let labels = |key: &str, value: &str| {
        Some(LabelSelector {
            match_labels: Some([(key.to_owned(), value.to_owned())].into()),
            ..LabelSelector::default()
        })
    };
    let to = EgressPods {
        namespace_selector: labels("kubernetes.io/metadata.name", &tenant.namespace),
        pod_selector: labels("app", "mirror"),
    };
    let port = EgressPort { port: 80, end_port: None, protocol: Protocol::Tcp };
    let rule = EgressRule { to: Some(to), ports: vec![port], ..EgressRule::default() };
    let patch = kube::api::Patch::Merge(json!({"spec": {"network": {"egress": [rule]}}}));
    tenant.pools().patch("closed", &kube::api::PatchParams::default(), &patch).await?;
    tenant.reaches(from, &[(target(80), Open), (target(81), Blocked)]).await?;
    ensure!(tenant.pods().get("closed-0").await?.metadata.uid == before, "the member was replaced");
    Ok(())
}

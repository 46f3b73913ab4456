//! Builds that try to leave their build, one for each file of `e2e/hostile`, and what they got.
//!
//! The attacker's pool has a neighbour, a build of the same pool that runs meanwhile, and another pool in another
//! namespace runs a build too. Each of them, and each login, has a canary of its own. Of another pool, of logins and
//! tokens, of the API, of the node and of the metadata service no attack may get anything; of the neighbour exactly what
//! the head of the file says for the profile, which is what `docs/threats.md` publishes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase, PoolProfile};
use buildpools_e2e::harness::{LOGIN_CANARY_HOST, Tenant, wait};
use futures::StreamExt as _;
use serde_json::json;

use attack::Attack;
use canaries::Canaries;

#[path = "pool_hostile/attack.rs"]
mod attack;
#[path = "pool_hostile/bombs.rs"]
mod bombs;
#[path = "pool_hostile/canaries.rs"]
mod canaries;
#[path = "pool_cache/disk.rs"]
mod disk;
#[path = "pool_hostile/log.rs"]
mod log;
#[path = "pool_hostile/poison.rs"]
mod poison;
#[path = "pool_hostile/prepare.rs"]
mod prepare;

/// The image that the attacks are made with: busybox, `hunt.sh` and `attack.c`.
const ATTACKER: &str = "registry.buildpools.test:5000/library/attacker:stable";

/// Attacks at a time in one pool, beside the neighbour.
const AT_ONCE: usize = 5;

#[tokio::test]
async fn hostile_builds_get_nothing_but_what_is_published_rootless() {
    hostile_builds(PoolProfile::Rootless).await;
}

#[tokio::test]
async fn hostile_builds_get_nothing_but_what_is_published_user_namespace() {
    hostile_builds(PoolProfile::UserNamespace).await;
}

async fn hostile_builds(profile: PoolProfile) {
    Tenant::with_others("hostile", ["hostile-other"], async |attacker, [other]| run(attacker, other, profile).await)
        .await;
}

/// A pool whose login has a canary beside the registry's.
async fn pool(tenant: &Tenant, profile: PoolProfile, canary: &str, builds: i32) -> anyhow::Result<()> {
    let registry = &tenant.environment.cluster.registry;
    let password = buildpools_e2e::fixtures::token::Config::password("alice");
    let config = json!({"auths": {
        registry: {"username": "alice", "password": password},
        LOGIN_CANARY_HOST: {"username": "canary", "password": canary},
    }});
    tenant.docker_config("login-with-canary", &config.to_string()).await?;
    let pool = tenant.pool("main").spec(|spec| {
        spec.profile = profile;
        spec.scaling.builds_per_member = builds;
        spec.cache.size = "4Gi".into();
        spec.max_build_duration = Duration::from_mins(15).into();
        spec.credentials[0].secret_ref.name = "login-with-canary".into();
    });
    pool.create_ready().await.map(drop)
}

/// A build that runs until it is cancelled. It has a canary in its environment, its files, its memory, a cache mount and
/// what it sends over the pod's network, where it listens on a port and an abstract socket; and tries to make a key of it.
async fn victim(tenant: &Tenant, name: &str, canary: &str) -> anyhow::Result<()> {
    let dockerfile = format!(
        "FROM {ATTACKER}\nARG PASSPHRASE\nRUN --mount=type=cache,id=hostile-shared,target=/shared <<'VICTIM'\nset -e\n\
         echo $PASSPHRASE >/canary\nmkdir /srv\ncp /canary /shared/$PASSPHRASE\ncp /canary /srv/$PASSPHRASE\n\
         httpd -p 7777 -h /srv\n\
         attack listen @neighbour &\nattack key $PASSPHRASE || true\n\
         while sleep 1; do wget -q -O /dev/null http://127.0.0.1:7777/$PASSPHRASE; done 2>/dev/null &\n\
         echo victim-is-up\nexec tail -f /canary\nVICTIM\n"
    );
    let job = tenant.job(name, "main").inline(&dockerfile);
    job.spec(|spec| drop(spec.args.insert("PASSPHRASE".into(), canary.into()))).create().await?;
    tenant.printed("main-0", "victim-is-up").await
}

/// A file of the daemon's container, with a canary, and a repository with it. The file is also a passwd with a user of its
/// own.
async fn plant(tenant: &Tenant, canary: &str) -> anyhow::Result<()> {
    let script = "set -e
        printf '%s\\nescaped:x:4242:4242::/:/bin/false\\n' \"$0\" >/tmp/daemon-canary
        git init -q /tmp/daemon-repository && cd /tmp/daemon-repository && cp ../daemon-canary .
        git add . && git -c user.name=x -c user.email=x commit -qm x";
    tenant.exec("main-0", names::DAEMON_CONTAINER, &["env", "HOME=/tmp", "sh", "-c", script, canary]).await.map(drop)
}

/// What archives, links, programs of git and COPY may have left where the daemon is.
async fn left_behind(tenant: &Tenant) -> anyhow::Result<String> {
    let look = "command -v find >/dev/null || exit 1
        for place in / /tmp /run/buildpools /home/user /home/user/.local/share/buildkit /var/lib/buildkit; do
          [ ! -e $place ] || find $place -xdev -name 'evil-*' -not -path '*/snapshots/*' 2>/dev/null
        done
        [ -s /tmp/daemon-canary ] || echo the canary is gone";
    tenant.exec("main-0", names::DAEMON_CONTAINER, &["sh", "-c", look]).await
}

async fn run(attacker: &Tenant, other: &Tenant, profile: PoolProfile) -> anyhow::Result<()> {
    prepare::once(attacker).await?;
    let canaries = Canaries::new();
    let slots = i32::try_from(AT_ONCE)? + 1;
    futures::try_join!(
        pool(attacker, profile, canaries.of("login"), slots),
        pool(other, profile, canaries.of("other-login"), 2),
    )?;
    futures::try_join!(
        victim(attacker, "neighbour", canaries.of("neighbour")),
        victim(other, "other", canaries.of("other")),
    )?;
    plant(attacker, canaries.of("daemon")).await?;
    let pod = other.pods().get("main-0").await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the other member has an address")?;
    let service = format!("{}.{}.svc.cluster.local", names::service("main"), other.namespace);
    let args = BTreeMap::from([
        ("OTHER_ADDRESS".to_owned(), address),
        ("OTHER_NAMES".to_owned(), format!("main-0.{service} {service}")),
        ("NODE".to_owned(), attacker.environment.cluster.node_ip.to_string()),
        ("NAMESPACE".to_owned(), attacker.namespace.clone()),
    ]);
    let attacks = Attack::all(profile)?;
    ensure!(attacks.len() >= 30, "there are {} attacks", attacks.len());
    let began = std::time::Instant::now();
    let ended: Vec<_> = futures::stream::iter(&attacks)
        .map(async |attack| attack_with(attacker, attack, &args).await.map(|status| (attack, status)))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // What one pool has imported is not in the other's cache.
    let look =
        other.job("cache", "main").inline("# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable\n");
    let status = look.spec(|spec| drop(spec.args.insert("MODE".into(), "cache".into()))).run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "cache: {status:?}");
    let log = other.log("main-0", names::RUNNER_CONTAINER).await?;
    let said: Vec<_> = log.lines().filter(|line| line.starts_with("[cache] ")).filter_map(log::said).collect();
    ensure!(said.contains(&"TRIED 1") && !said.iter().any(|line| line.starts_with("ESCAPED")), "cache: {said:?}");
    // Nobody was hurt: both builds still run, in their first attempt.
    for (tenant, name) in [(attacker, "neighbour"), (other, "other")] {
        let status = tenant.jobs().get(name).await?.status.unwrap_or_default();
        ensure!(status.phase == JobPhase::Running && status.attempts.len() == 1, "{name} was disturbed: {status:?}");
    }
    let left = left_behind(attacker).await?;
    ensure!(left.trim().is_empty(), "in the daemon's container: {left}");
    let log = attacker.log("main-0", names::RUNNER_CONTAINER).await?;
    ensure!(!log.contains("lines dropped"), "the log has not everything");
    let mut violations = Vec::new();
    for result in ended {
        let (attack, status) = result?;
        let prefix = format!("[{}] ", attack.name);
        let own: Vec<&str> = log.lines().filter(|line| line.starts_with(&prefix)).collect();
        let why = status.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
        println!("{}: {:?} {}", attack.name, status.phase, why.lines().next().unwrap_or_default());
        let mut wrong = attack.judge(&status, &own.join("\n"), &canaries)?;
        if let Some(image) = &attack.output {
            let content = prepare::content(attacker, &attacker.repository(image))?;
            wrong.extend(canaries.forbidden(&content).map(|kind| format!("the canary of {kind} is in its image")));
        }
        violations.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", attack.name)));
    }
    let ended = attacks.iter().map(|attack| (attack.name.as_str(), true)).chain([("neighbour", false)]);
    violations.extend(log::wrong(&log, &ended.collect()));
    println!("{} attacks, {profile:?}: {} violations in {:.0?}", attacks.len(), violations.len(), began.elapsed());
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

async fn attack_with(
    tenant: &Tenant,
    attack: &Attack,
    args: &BTreeMap<String, String>,
) -> anyhow::Result<BuildJobStatus> {
    let mut args = args.clone();
    args.extend(attack.mode.clone().map(|mode| ("MODE".to_owned(), mode)));
    let job = tenant.job(&attack.name, "main");
    let job = match &attack.repository {
        None => job.inline(&attack.dockerfile),
        Some(repository) => job.git(repository).spec(|spec| match &attack.path {
            None => spec.dockerfile.inline = Some(attack.dockerfile.clone()),
            Some(path) => spec.dockerfile.path = Some(path.clone()),
        }),
    };
    let job = match &attack.output {
        None => job,
        Some(image) => job.push(image),
    };
    let job = job.spec(|spec| {
        spec.args = args;
        spec.infra_retries = Some(0);
        spec.timeout = Some(Duration::from_mins(3).into());
    });
    job.create().await?;
    let limit = Duration::from_mins(8);
    let jobs = tenant.jobs();
    let found = wait::until(&jobs, &attack.name, "the attack ends", limit, |job| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.phase.is_terminal())
    });
    Ok(found.await?.and_then(|job| job.status).unwrap_or_default())
}

//! Builds that try to leave their build, one for each file of `e2e/hostile`, and what they got.
//!
//! The attacker's pool has a neighbour, a build of the same pool that runs meanwhile, and another pool in another
//! namespace runs a build too. Each of them, and each login, has a canary of its own. Of another pool, of logins and
//! tokens, of the API, of the node and of the metadata service no attack may get anything; of the neighbour exactly what
//! the head of the file says for the profile, which is what `docs/threats.md` publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase, PoolProfile};
use buildpools_e2e::cluster::layout;
use buildpools_e2e::cluster::outside::CREDENTIALS;
use buildpools_e2e::harness::{BASE, LOGIN_CANARY_HOST, Tenant, wait};
use futures::StreamExt as _;
use serde_json::json;

#[path = "pool_hostile/prepare.rs"]
mod prepare;

/// Attacks at a time in one pool, beside the neighbour.
const AT_ONCE: usize = 5;

/// One file of `e2e/hostile`.
#[derive(Clone, Debug)]
struct Attack {
    name: String,
    dockerfile: String,
    /// `Succeeded`, `Failed <text of the message>` or `.*`.
    ends: String,
    /// What it may see or do outside of itself, in its own pool.
    shared: BTreeSet<String>,
    mode: Option<String>,
    /// Repository that is the context. The Dockerfile is in the job all the same.
    repository: Option<String>,
}

impl Attack {
    fn read(path: &Path, profile: PoolProfile) -> anyhow::Result<Self> {
        let dockerfile = std::fs::read_to_string(path)?;
        let line = |key: &str| {
            let found = dockerfile.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key));
            found.map(|value| value.trim().to_owned()).with_context(|| format!("{}: no line {key}", path.display()))
        };
        line("tries:")?;
        let shared = line(&format!("{profile:?}:"))?;
        let words = shared.split_whitespace().filter(|word| *word != "nothing").map(str::to_owned).collect();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name")?.to_owned();
        Ok(Self {
            name,
            ends: line("ends:")?,
            shared: words,
            mode: line("mode=").ok(),
            repository: line("context:").ok(),
            dockerfile,
        })
    }

    fn all(profile: PoolProfile) -> anyhow::Result<Vec<Self>> {
        let directory = layout::repository().join("e2e/hostile");
        let mut paths: Vec<_> = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
        paths.sort();
        paths.iter().map(|path| Self::read(path, profile)).collect()
    }

    /// What is wrong with how it ended and with what it printed.
    fn judge(&self, status: &BuildJobStatus, log: &str, canaries: &Canaries) -> Vec<String> {
        let mut wrong = Vec::new();
        let message = status.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        let ended = match self.ends.split_once(' ').unwrap_or((&self.ends, "")) {
            (".*", _) => true,
            ("Failed", text) => status.phase == JobPhase::Failed && message.contains(text.trim_matches(['.', '*'])),
            _ => status.phase == JobPhase::Succeeded,
        };
        if !ended {
            wrong.push(format!("it ended {:?} ({message}), not {}", status.phase, self.ends));
        }
        if status.attempts.len() != 1 {
            wrong.push(format!("it took {} attempts: {:?}", status.attempts.len(), status.attempts));
        }
        let said: Vec<&str> = log.lines().filter_map(said).collect();
        let tried = said.iter().any(|line| line.starts_with("TRIED "));
        if status.phase == JobPhase::Succeeded && !tried && self.ends == "Succeeded" {
            wrong.push("it did not say that it tried".to_owned());
        }
        let mut shared = BTreeSet::new();
        for line in said {
            if line.starts_with("ESCAPED") {
                wrong.push(line.to_owned());
            } else if let Some(rest) = line.strip_prefix("SHARED ") {
                shared.extend(rest.split_whitespace().next().map(str::to_owned));
            } else if line.starts_with("LEAK ") {
                match canaries.kind(line) {
                    Some("neighbour") => {
                        shared.insert("canary".to_owned());
                    }
                    Some(kind) => wrong.push(format!("{kind}: {line}")),
                    // Its own arguments, or what another attack printed.
                    None => {}
                }
            }
        }
        // Wherever it stands: in a message, in the status, in a line that is none of ours.
        for (kind, canary) in &canaries.0 {
            if kind != "neighbour" && (log.contains(canary) || message.contains(canary)) {
                wrong.push(format!("the canary of {kind} is in its log or message"));
            }
        }
        if shared != self.shared {
            wrong.push(format!("of its own pool it got {shared:?}, and {:?} is published", self.shared));
        }
        wrong
    }
}

/// What a step printed, without the job's name and the step's number: `[job] #7 0.123 text`, or `[job] #7 text`.
fn said(line: &str) -> Option<&str> {
    let rest = line.split_once("] ")?.1;
    let rest = rest.strip_prefix('#').and_then(|rest| Some(rest.split_once(' ')?.1)).unwrap_or(rest);
    let time = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    match rest.split_once(' ') {
        Some((first, text)) if time(first) => Some(text),
        _ => Some(rest),
    }
}

/// Secrets by whom they belong to.
struct Canaries(BTreeMap<String, String>);

impl Canaries {
    fn new() -> Self {
        let kinds = ["neighbour", "other", "login", "other-login"];
        let canary = |kind: &&str| ((*kind).to_owned(), format!("canary-{kind}-{:016x}", rand::random::<u64>()));
        let mut all: BTreeMap<String, String> = kinds.iter().map(canary).collect();
        all.insert("metadata".to_owned(), CREDENTIALS.to_owned());
        Self(all)
    }

    fn of(&self, kind: &str) -> &str {
        &self.0[kind]
    }

    fn kind(&self, line: &str) -> Option<&str> {
        if line.ends_with(" token") {
            return Some("token");
        }
        self.0.iter().find(|(_, canary)| line.contains(*canary)).map(|(kind, _)| kind.as_str())
    }
}

#[tokio::test]
async fn hostile_builds_get_nothing_but_what_is_published_rootless() {
    hostile_builds(PoolProfile::Rootless).await;
}

#[tokio::test]
async fn hostile_builds_get_nothing_but_what_is_published_user_namespace() {
    hostile_builds(PoolProfile::UserNamespace).await;
}

async fn hostile_builds(profile: PoolProfile) {
    Tenant::with("hostile", async |attacker| {
        let other = Tenant::create(attacker.environment.clone(), "hostile-other").await?;
        let result = Box::pin(run(attacker, &other, profile)).await;
        other.delete().await;
        result
    })
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

/// A build that runs until it is cancelled, with a canary in its environment, its files, its memory and a cache mount.
async fn victim(tenant: &Tenant, name: &str, canary: &str) -> anyhow::Result<()> {
    let dockerfile = format!(
        "FROM {BASE}\nARG PASSPHRASE\nRUN --mount=type=cache,id=hostile-shared,target=/shared \
         echo $PASSPHRASE > /shared/$PASSPHRASE && echo $PASSPHRASE > /canary && mkdir /srv && httpd -p 7777 -h /srv && \
         echo victim-is-up && exec tail -f /canary\n"
    );
    let job = tenant.job(name, "main").inline(&dockerfile);
    job.spec(|spec| drop(spec.args.insert("PASSPHRASE".into(), canary.into()))).create().await?;
    tenant.printed("main-0", "victim-is-up").await
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
    // Nobody was hurt: both builds still run, in their first attempt.
    for (tenant, name) in [(attacker, "neighbour"), (other, "other")] {
        let status = tenant.jobs().get(name).await?.status.unwrap_or_default();
        ensure!(status.phase == JobPhase::Running && status.attempts.len() == 1, "{name} was disturbed: {status:?}");
    }
    // What archives, links and COPY may have left where the daemon is.
    let look = "command -v find >/dev/null || exit 1
        find / /tmp /home/user -xdev '(' -name 'evil-*' -o -name written-by-copy ')' -not -path '*/snapshots/*' 2>/dev/null
        true";
    let left = attacker.exec("main-0", names::DAEMON_CONTAINER, &["sh", "-c", look]).await?;
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
        let wrong = attack.judge(&status, &own.join("\n"), &canaries);
        violations.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", attack.name)));
    }
    // No line of the log is without its job's name, and none has codes that a terminal would obey.
    let names: BTreeSet<&str> = attacks.iter().map(|attack| attack.name.as_str()).chain(["neighbour"]).collect();
    // (The runner's own begin with the time.)
    for line in log.lines().filter(|line| !line.starts_with("20")) {
        let owner = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name);
        if owner.is_none_or(|owner| !names.contains(owner)) {
            violations.push(format!("a line of nobody: {line:?}"));
        }
        if line.contains(['\r', '\u{7}']) || line.contains("\u{1b}[2J") || line.contains("\u{1b}]") {
            violations.push(format!("a line with codes: {line:?}"));
        }
    }
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
        Some(repository) => job.git(repository).spec(|spec| spec.dockerfile.inline = Some(attack.dockerfile.clone())),
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

/// Bombs: processes, memory, disk. The pool's limits hold them; its daemon survives or comes back, and another pool's
/// build goes on.
#[tokio::test]
async fn bombs_hurt_no_other_pool() {
    Tenant::with("bombs", async |tenant| {
        let other = Tenant::create(tenant.environment.clone(), "bombs-other").await?;
        let result = bombs(tenant, &other).await;
        other.delete().await;
        result
    })
    .await;
}

/// Name, and the step that does it: it ends by itself, should nothing stop it.
const BOMBS: [(&str, &str); 3] = [
    ("forks", "for i in $(seq 3000); do sleep 20 & done; wait"),
    ("memory", "dd if=/dev/zero of=/dev/null bs=1500M count=1"),
    ("disk", "dd if=/dev/zero of=/big bs=1M count=600 && rm /big"),
];

async fn bombs(tenant: &Tenant, other: &Tenant) -> anyhow::Result<()> {
    let canaries = Canaries::new();
    let limits = |spec: &mut buildpools_crds::v1alpha1::BuildPoolSpec| {
        let memory = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("512Mi".into());
        spec.pod.resources.limits.insert("memory".into(), memory);
    };
    futures::try_join!(tenant.pool("main").spec(limits).create_ready(), async {
        pool(other, PoolProfile::Rootless, canaries.of("other-login"), 2).await
    },)?;
    victim(other, "other", canaries.of("other")).await?;
    for (name, step) in BOMBS {
        let job = tenant.job(name, "main").inline(&format!("FROM {BASE}\nRUN {step}\n"));
        let status = job.spec(|spec| spec.infra_retries = Some(1)).run().await?;
        ensure!(status.phase.is_terminal(), "{name}: {status:?}");
        if name == "memory" {
            ensure!(status.phase == JobPhase::Failed, "1.5 GB in 512 MiB: {status:?}");
        }
        // The pool builds again, without anybody's help.
        let after = format!("after-{name}");
        let status = tenant.job(&after, "main").inline(&format!("FROM {BASE}\nRUN echo {after}\n")).run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{after}: {:?}", status.failure);
        let victim = other.jobs().get("other").await?.status.unwrap_or_default();
        ensure!(victim.phase == JobPhase::Running && victim.attempts.len() == 1, "{name}: {victim:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_said() {
        assert_eq!(said("[a] #7 0.123 ESCAPED x"), Some("ESCAPED x"));
        assert_eq!(said("[a] #7 LEAK x"), Some("LEAK x"));
        assert_eq!(said("[a] #7 [2/3] RUN echo ESCAPED"), Some("[2/3] RUN echo ESCAPED"));
    }

    #[test]
    fn every_attack_can_be_read() {
        for profile in [PoolProfile::Rootless, PoolProfile::UserNamespace] {
            assert!(Attack::all(profile).unwrap().len() >= 50);
        }
    }
}

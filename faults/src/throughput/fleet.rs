//! A pool whose members have real runners and prompt daemons, and the operator as a process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use buildpools_crds::lifecycle::Member;
use buildpools_crds::member_config::MemberConfig;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::BuildPool;
use buildpools_e2e::harness::wait;
use buildpools_runner::Identity;
use buildpools_runner::api::ApiServer;
use buildpools_runner::assembly::Assembly;
use buildpools_runner::credentials::Mounted;
use buildpools_runner::decide::Event;
use buildpools_runner::logs::Logs;
use buildpools_runner::member::Report;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::daemon::Prompt;
use crate::control_plane::{ControlPlane, User};
use crate::kept::Kept;
use crate::{operator, sets};

/// The namespace.
pub const NAMESPACE: &str = "team";
/// The pool.
pub const POOL: &str = "main";
/// Its members.
const MEMBERS: i32 = 4;
/// Builds that each runs at a time.
const BUILDS: i32 = 32;

/// Operator and runners at work; all of them end when this is dropped.
pub struct Fleet {
    /// One of the members.
    pub member: Member,
    _operator: Kept,
    _runners: JoinSet<()>,
}

impl Fleet {
    /// Starts the operator, makes a pool and plays its pods.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(plane: &ControlPlane, admin: &Client, daemon: &Prompt) -> Result<Self> {
        let health = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let operator = operator::start(plane, "buildpools-operator-0", &plane.kubeconfig_of(User::Operator)?, health)?;
        sets::create_node(admin).await?;
        sets::create_namespace(admin, NAMESPACE).await?;
        let pool: BuildPool = serde_json::from_value(json!({
            "metadata": {"name": POOL},
            "spec": {"scaling": {"minMembers": MEMBERS, "buildsPerMember": BUILDS}, "cache": {"size": "1Gi"}},
        }))?;
        Api::<BuildPool>::namespaced(admin.clone(), NAMESPACE).create(&PostParams::default(), &pool).await?;
        let sets: Api<StatefulSet> = Api::namespaced(admin.clone(), NAMESPACE);
        let set = names::stateful_set(POOL);
        let set = wait::until(&sets, &set, "the pool has a StatefulSet", wait::BUILD, |set| set.is_some()).await?;
        let set = set.context("the pool has a StatefulSet")?;
        let mut runners = JoinSet::new();
        let mut members = Vec::new();
        for ordinal in 0..MEMBERS {
            let member = sets::create_pod(admin, &set, ordinal).await?;
            let user = User::Runner { namespace: NAMESPACE, pool: POOL, pod: &member };
            runners.spawn(run(plane.client(user).await?, member.clone(), daemon.clone()));
            members.push(member);
        }
        let member = members.into_iter().next().context("the pool has a member")?;
        Ok(Self { member, _operator: operator, _runners: runners })
    }
}

/// As `buildpools_runner::run::run`, with another daemon.
async fn run(client: Client, pod: Member, daemon: Prompt) {
    let me = Arc::new(Identity {
        pod,
        namespace: NAMESPACE.to_owned(),
        pool: POOL.to_owned(),
        instance: uuid::Uuid::new_v4().to_string(),
    });
    let calls = ApiServer::new(client, me.clone());
    let (events, received) = mpsc::unbounded_channel();
    let (logs, _flush) = Logs::start(std::io::sink());
    let report = Report { version: Some("v0.0.0".into()), ..Report::default() };
    let mounted = Mounted::new(MemberConfig::default());
    let runner = Assembly::new(me, calls, daemon, mounted, report, logs, (events.clone(), received));
    let (supervisor, _tasks) = runner.start(|| {});
    // The daemon answers, for ever.
    let _ = events.send(Event::Daemon(true));
    supervisor.run().await;
}

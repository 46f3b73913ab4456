//! Step 5: what the pool's status says, and writing it when it changes.

use buildpools_crds::conditions::{self, Status};
use buildpools_crds::v1alpha1::{BuildPool, BuildPoolStatus};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::cache::limits::Limits;
use super::cache::{claims, health};
use super::dereference::Observed;
use super::members::{self, Members};
use super::problem::Problem;
use super::{buildkit, credentials, reasons, roster, upgrade};
use crate::kube_ext::call::{CallError, call};

/// Field manager of the pool's status. Another than that of the objects: an entry of `status.members` belongs to its
/// runner.
pub const FIELD_MANAGER: &str = "buildpools-operator/pool-status";

/// A status that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It does not become JSON. A fault of ours.
    #[error("cannot serialise the status: {0}")]
    Serialise(#[from] serde_json::Error),
    /// The API server does not take it.
    #[error("cannot write the status: {0}")]
    Call(#[from] CallError),
}

impl StatusError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Serialise(_) => "Serialise",
            Self::Call(error) => error.category(),
        }
    }
}

/// The next status. `objects` is the StatefulSet as it was put, or what stood in the way.
pub fn compute(observed: &Observed, objects: Result<&StatefulSet, &[Problem]>, now: Timestamp) -> BuildPoolStatus {
    let mut next = observed.pool.status.clone().unwrap_or_default();
    let generation = observed.pool.metadata.generation;
    let step = upgrade::of(observed, objects, now);
    // Members live on when the pool's newest form cannot be had.
    let set = objects.ok().or(observed.live.stateful_set.as_ref());
    let upgrade = step.as_ref().map_or(next.upgrade.as_ref(), |step| step.upgrade.as_ref());
    let members = roster::roster(observed, set, upgrade);
    let none = Members { desired: observed.pool.spec.scaling.min_members, ..Members::default() };
    let mut found = set.map_or(none, |set| members::look(set, observed.members_of(set), &observed.events, now));
    let in_vain = members.iter().filter(|member| member.is_ready_in_vain()).count();
    found.ready -= i32::try_from(in_vain).unwrap_or(0).min(found.ready);
    found.problems.extend(buildkit::too_old(&members));
    found.problems.extend(observed.refused_volume.clone());
    next.members = roster::entries(&next.members, &members);

    let in_the_way = objects.err().unwrap_or(&found.problems);
    let ready = ready(&found, in_the_way);
    let upgrading = step.as_ref().map(|step| (step.status(), step.reason, step.message.clone()));
    let mut set_condition = |type_, said: Option<(Status, &'static str, String)>| match said {
        Some((status, reason, message)) => {
            let _ = conditions::set(&mut next.conditions, type_, status, reason, &message, generation, now);
        }
        None => next.conditions.retain(|condition| condition.type_ != type_),
    };
    let kstatus = kstatus(&ready, upgrading.as_ref());
    set_condition(conditions::READY, Some(ready));
    if upgrading.is_some() {
        set_condition(conditions::UPGRADING, upgrading);
    }
    set_condition(conditions::CREDENTIALS_READY, credentials::condition(&observed.pool.spec, &next.members));
    set_condition(conditions::BUILDKIT_UP_TO_DATE, buildkit::condition(&members));
    // Absent when the members that it was told of are gone.
    set_condition(conditions::CACHE_HEALTHY, cache_health(observed));
    let (reconciling, stalled) = kstatus;
    set_condition(conditions::RECONCILING, reconciling);
    set_condition(conditions::STALLED, stalled);

    if let Some(step) = step {
        next.upgrade = step.upgrade;
    }
    next.observed_generation = generation;
    next.ready_members = Some(found.ready);
    next.member_summary = Some(format!("{}/{}", found.ready, found.desired));
    next.version = roster::version(&members).or(next.version);
    next
}

type Said = (Status, &'static str, String);

/// What kstatus reads, beside `Ready`: `Reconciling` while work goes on that ends by itself, `Stalled` when it does not.
/// Either is there only while it is True
/// (<https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>).
fn kstatus(ready: &Said, upgrading: Option<&Said>) -> (Option<Said>, Option<Said>) {
    let (status, reason, message) = ready;
    let stalled = reasons::STALLED.contains(reason).then(|| (Status::True, *reason, message.clone()));
    let upgrading = upgrading.filter(|upgrading| upgrading.0 == Status::True);
    let reconciling = match upgrading {
        _ if stalled.is_some() => None,
        Some((_, reason, message)) => Some((Status::True, *reason, message.clone())),
        None => (*status != Status::True).then(|| (Status::True, *reason, message.clone())),
    };
    (reconciling, stalled)
}

fn cache_health(observed: &Observed) -> Option<(Status, &'static str, String)> {
    let pool = &observed.pool;
    let plan = claims::plan(pool, &observed.volumes, &observed.classes);
    let limits = Limits::of_pool(pool, plan.smallest);
    let members = pool.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
    let pods: Vec<String> = observed.pods.iter().filter_map(kube::ResourceExt::uid).collect();
    let members: Vec<_> = members.iter().filter(|member| pods.contains(&member.uid)).cloned().collect();
    health::condition(health::Facts {
        members: &members,
        pods: &observed.pods,
        unexpandable: &plan.unexpandable,
        limits: limits.as_ref(),
        size: &pool.spec.cache.size,
    })
}

fn ready(members: &Members, in_the_way: &[Problem]) -> Said {
    let Members { desired, ready, .. } = members;
    let message = format!("{ready} of {desired} members are ready");
    if let Some(first) = in_the_way.first() {
        let all: Vec<String> = in_the_way.iter().map(ToString::to_string).collect();
        return (Status::False, first.reason(), format!("{message}; {}", all.join("; ")));
    }
    if *ready > 0 {
        (Status::True, reasons::READY, message)
    } else {
        (Status::False, reasons::MEMBERS_NOT_READY, message)
    }
}

/// The patch from the status that is there to the next; `None` when they are the same. Only what changes is in it, and
/// the pool's resourceVersion: a runner may be writing its own entry of the same list.
fn patch(pool: &BuildPool, next: &BuildPoolStatus) -> Result<Option<Value>, serde_json::Error> {
    let before = serde_json::to_value(pool.status.clone().unwrap_or_default())?;
    let mut changes = Map::new();
    if let Value::Object(fields) = serde_json::to_value(next)? {
        changes.extend(fields.into_iter().filter(|(field, value)| before.get(field) != Some(value)));
    }
    // An empty list is not serialised, nor is what is not there.
    if next.members.is_empty() && before.get("members").is_some() {
        changes.insert("members".to_owned(), json!([]));
    }
    if next.upgrade.is_none() && before.get("upgrade").is_some() {
        changes.insert("upgrade".to_owned(), Value::Null);
    }
    let body = || json!({"metadata": {"resourceVersion": pool.resource_version()}, "status": changes});
    Ok((!changes.is_empty()).then(body))
}

/// Writes the status if it changes.
///
/// # Errors
/// When the API server does not take it, for instance because a runner wrote its entry meanwhile.
pub async fn write(client: &Client, pool: &BuildPool, next: &BuildPoolStatus) -> Result<(), StatusError> {
    let Some(patch) = patch(pool, next)? else { return Ok(()) };
    let api: Api<BuildPool> = Api::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    call(api.patch_status(&pool.name_any(), &params, &Patch::Merge(patch))).await?;
    Ok(())
}

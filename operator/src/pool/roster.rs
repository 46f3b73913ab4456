//! The members of a pool one by one, told from their pods and from what their runners report. Pure.

use std::collections::BTreeMap;

use buildpools_crds::buildkit::{self, Support};
use buildpools_crds::v1alpha1::{MemberPhase, PoolMember, PoolUpgrade};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::dereference::Observed;
use super::members;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of its pod.
    pub pod: String,
    /// UID of its pod.
    pub uid: String,
    /// Where it is in its life.
    pub phase: MemberPhase,
    /// Whether it runs an older form of the pool.
    pub outdated: bool,
    /// Whether its pod is ready.
    pub ready: bool,
    /// Whether it takes builds and has said with which daemon: nothing is left to be found out about it.
    pub proven: bool,
    /// Builds that run, as its runner has reported them last.
    pub builds: i32,
    /// Version of its daemon, once it is known.
    pub version: Option<String>,
}

impl Member {
    /// Whether its pod is on its way out.
    pub fn is_ending(&self) -> bool {
        self.phase == MemberPhase::Terminating
    }

    /// Whether it is ready and its BuildKit is too old: it takes no builds.
    pub fn is_ready_in_vain(&self) -> bool {
        let too_old = |version: &String| buildkit::support(version) == Support::TooOld;
        self.ready && self.version.as_ref().is_some_and(too_old)
    }
}

/// All members in the order of their names. `set` is the StatefulSet as it is wanted, `upgrade` says which member is
/// marked for replacement.
pub fn roster(observed: &Observed, set: Option<&StatefulSet>, upgrade: Option<&PoolUpgrade>) -> Vec<Member> {
    let status = observed.pool.status.iter();
    let entries: BTreeMap<&str, &PoolMember> =
        status.flat_map(|status| &status.members).map(|entry| (entry.uid.as_str(), entry)).collect();
    let draining = upgrade.and_then(|upgrade| upgrade.draining.as_ref());
    let mut roster: Vec<Member> = observed
        .members()
        .filter_map(|pod| {
            let uid = pod.uid()?;
            let entry = entries.get(uid.as_str());
            let version = entry.and_then(|entry| entry.version.clone());
            let is_draining = draining.is_some_and(|draining| draining.uid == uid);
            let unreachable = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let unreachable = unreachable.is_some_and(|node| observed.unreachable_nodes.contains(node));
            let phase = phase(pod, version.as_deref(), unreachable);
            let may_drain = ![MemberPhase::Terminating, MemberPhase::Unreachable].contains(&phase);
            Some(Member {
                pod: pod.name_any(),
                phase: if is_draining && may_drain { MemberPhase::Draining } else { phase },
                outdated: set.is_some_and(|set| members::is_outdated(set, pod)),
                ready: members::is_ready(pod),
                proven: phase == MemberPhase::Ready && version.is_some(),
                builds: entry.map_or(0, |entry| entry.builds),
                version,
                uid,
            })
        })
        .collect();
    roster.sort_by_cached_key(|member| members::by_name(&member.pod));
    roster
}

fn phase(pod: &Pod, version: Option<&str>, unreachable: bool) -> MemberPhase {
    let status = pod.status.as_ref();
    let ended = status.and_then(|status| status.phase.as_deref()).is_some_and(|it| it == "Failed" || it == "Succeeded");
    let too_old = version.is_some_and(|version| buildkit::support(version) == Support::TooOld);
    match () {
        () if pod.metadata.deletion_timestamp.is_some() || ended => MemberPhase::Terminating,
        () if unreachable => MemberPhase::Unreachable,
        () if too_old => MemberPhase::Unsupported,
        () if members::is_ready(pod) => MemberPhase::Ready,
        () if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) => MemberPhase::Pending,
        () => MemberPhase::Starting,
    }
}

/// `status.members`: what the runners have written, with the phases of now. Entries of pods that are gone are left out; a
/// member whose runner has not written yet gets an entry.
pub fn entries(before: &[PoolMember], roster: &[Member]) -> Vec<PoolMember> {
    roster
        .iter()
        .map(|member| {
            let known = before.iter().find(|entry| entry.uid == member.uid).cloned();
            let new = || PoolMember { uid: member.uid.clone(), pod: member.pod.clone(), ..PoolMember::default() };
            PoolMember { phase: Some(member.phase), ..known.unwrap_or_else(new) }
        })
        .collect()
}

/// The lowest version; of those that are no versions, the first.
pub fn version(roster: &[Member]) -> Option<String> {
    let known = roster.iter().filter(|member| !member.is_ending()).filter_map(|member| member.version.as_ref());
    known
        .min_by(|one, other| match (buildkit::parse(one), buildkit::parse(other)) {
            (Some(one), Some(other)) => one.cmp_precedence(&other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        })
        .cloned()
}

/// How many members are in each phase.
pub fn by_phase(roster: &[Member]) -> BTreeMap<MemberPhase, usize> {
    let mut counts: BTreeMap<MemberPhase, usize> = MemberPhase::ALL.iter().map(|phase| (*phase, 0)).collect();
    for member in roster {
        *counts.entry(member.phase).or_default() += 1;
    }
    counts
}

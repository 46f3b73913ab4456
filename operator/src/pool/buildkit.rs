//! Condition `BuildKitUpToDate`, told from what the members' daemons report. Pure.

use buildpools_crds::buildkit::{self, Support};
use buildpools_crds::conditions::Status;

use super::problem::Problem;
use super::reasons::buildkit as reasons;
use super::roster::Member;

/// Members whose daemon is too old to be given builds.
pub fn too_old(members: &[Member]) -> impl Iterator<Item = Problem> {
    of(members, Support::TooOld)
        .map(|(pod, version)| Problem::BuildKitTooOld { pod: pod.to_owned(), version: version.to_owned() })
}

/// Status, reason and message of the condition; `None` while no member has reported a version.
pub fn condition(members: &[Member]) -> Option<(Status, &'static str, String)> {
    let list = |support| {
        let members: Vec<String> = of(members, support).map(|(pod, version)| format!("{pod} ({version})")).collect();
        (!members.is_empty()).then(|| members.join(", "))
    };
    let set = "set spec.buildkit.image to a newer image";
    let advised = buildkit::ADVISED;
    let versions = || members.iter().filter(|member| !member.is_ending()).any(|member| member.version.is_some());
    if let Some(old) = list(Support::TooOld) {
        let message =
            format!("older than v{}, the oldest version that is given builds: {old}; {set}", buildkit::MINIMUM);
        return Some((Status::False, reasons::TOO_OLD, message));
    }
    if let Some(old) = list(Support::BelowAdvised) {
        let message = format!("older than v{advised}, with known security advisories: {old}; {set}");
        return Some((Status::False, reasons::BELOW_ADVISED, message));
    }
    if let Some(unknown) = list(Support::Unknown) {
        let message = format!("no version that could be compared with v{advised}: {unknown}");
        return Some((Status::Unknown, reasons::VERSION_UNKNOWN, message));
    }
    versions().then(|| (Status::True, reasons::UP_TO_DATE, format!("all members run v{advised} or newer")))
}

fn of(members: &[Member], support: Support) -> impl Iterator<Item = (&str, &str)> {
    members.iter().filter(|member| !member.is_ending()).filter_map(move |member| {
        let version = member.version.as_deref().filter(|version| buildkit::support(version) == support)?;
        Some((member.pod.as_str(), version))
    })
}

#[cfg(test)]
mod tests {
    use buildpools_crds::v1alpha1::MemberPhase;

    use super::*;

    fn members(versions: &[Option<&str>]) -> Vec<Member> {
        let member = |(ordinal, version): (usize, Option<&str>)| Member {
            pod: format!("main-{ordinal}"),
            uid: format!("pod-{ordinal}"),
            phase: MemberPhase::Ready,
            outdated: false,
            ready: true,
            proven: true,
            builds: 0,
            version: version.map(str::to_owned),
        };
        versions.iter().copied().enumerate().map(member).collect()
    }

    #[test]
    fn the_worst_version_counts() {
        for (versions, status, reason, text) in [
            (vec![Some("v0.34.2"), None], Status::True, reasons::UP_TO_DATE, "v0.34.2 or newer"),
            (vec![Some("v0.34.2"), Some("3f1c9a7")], Status::Unknown, reasons::VERSION_UNKNOWN, "main-1 (3f1c9a7)"),
            (
                vec![Some("v0.33.1"), Some("3f1c9a7")],
                Status::False,
                reasons::BELOW_ADVISED,
                "older than v0.34.2, with known security advisories: main-0 (v0.33.1); set spec.buildkit.image",
            ),
            (
                vec![Some("v0.33.1"), Some("v0.22.0")],
                Status::False,
                reasons::TOO_OLD,
                "older than v0.31.2, the oldest version that is given builds: main-1 (v0.22.0); set spec.buildkit.image",
            ),
        ] {
            let (is, why, message) = condition(&members(&versions)).unwrap();
            assert_eq!((is, why), (status, reason), "{versions:?}");
            assert!(message.contains(text), "{message}");
        }
        assert_eq!(condition(&members(&[None])), None);
    }

    #[test]
    fn a_member_that_ends_says_nothing_of_the_others() {
        let mut members = members(&[Some("v0.22.0"), Some("v0.34.2")]);
        members[0].phase = MemberPhase::Terminating;
        assert_eq!(condition(&members).unwrap().0, Status::True);
        assert_eq!(too_old(&members).count(), 0);
    }
}

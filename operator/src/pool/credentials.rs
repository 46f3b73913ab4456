//! Condition `CredentialsReady`, told from what the runners report of the mounted Secrets: the operator reads none. Pure.

use std::collections::BTreeSet;

use buildpools_crds::conditions::Status;
use buildpools_crds::v1alpha1::{BuildPoolSpec, PoolMember};

use super::reasons::credentials as reasons;

/// Status, reason and message of the condition; `None` for a pool without Secrets and without problems.
pub fn condition(spec: &BuildPoolSpec, members: &[PoolMember]) -> Option<(Status, &'static str, String)> {
    let reported: Vec<&PoolMember> = members.iter().filter(|member| member.version.is_some()).collect();
    let wanted: BTreeSet<&str> = spec.credentials.iter().map(|it| it.secret_ref.name.as_str()).collect();
    let missing: BTreeSet<&str> =
        reported.iter().flat_map(|member| &member.missing_secrets).map(String::as_str).collect();
    // A member of an older form may miss one that the pool does not name any more.
    let missing: Vec<&str> = missing.intersection(&wanted).copied().collect();
    let warnings: BTreeSet<&str> = reported
        .iter()
        .flat_map(|member| {
            let of_missing = |warning: &&String| {
                member.missing_secrets.iter().any(|secret| warning.starts_with(&format!("Secret {secret} ")))
            };
            member.warnings.iter().filter(move |warning| !of_missing(warning))
        })
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "Secret {} of spec.credentials does not exist or has no key .dockerconfigjson: create it; builds go on without \
             its logins and use it as soon as it is there",
            missing.join(", ")
        );
        return Some((Status::False, reasons::SECRET_MISSING, message));
    }
    if !warnings.is_empty() {
        let message = warnings.into_iter().collect::<Vec<_>>().join("; ");
        return Some((Status::False, reasons::ENTRY_INVALID, message));
    }
    match () {
        () if wanted.is_empty() => None,
        () if reported.is_empty() => {
            let message = "no member has looked at the Secrets yet".to_owned();
            Some((Status::Unknown, reasons::MEMBERS_NOT_READY, message))
        }
        () => Some((Status::True, reasons::READY, "all Secrets are there and can be used".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use buildpools_crds::v1alpha1::{LocalReference, PoolCredential};

    use super::*;

    fn spec(secrets: &[&str]) -> BuildPoolSpec {
        let secret = |name: &&str| PoolCredential { secret_ref: LocalReference { name: (*name).to_owned() } };
        BuildPoolSpec { credentials: secrets.iter().map(secret).collect(), ..BuildPoolSpec::default() }
    }

    fn member(missing: &[&str], warnings: &[&str]) -> PoolMember {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        PoolMember {
            version: Some("v0.34.2".into()),
            missing_secrets: owned(missing),
            warnings: owned(warnings),
            ..PoolMember::default()
        }
    }

    #[test]
    fn what_the_runners_report_is_said_once() {
        let silent = PoolMember::default();
        let gone = "Secret gone does not exist or has no key .dockerconfigjson";
        for (secrets, members, expected) in [
            (vec![], vec![member(&[], &[])], None),
            (vec!["robot"], vec![silent.clone()], Some((Status::Unknown, reasons::MEMBERS_NOT_READY, "yet"))),
            (vec!["robot"], vec![member(&[], &[]), silent], Some((Status::True, reasons::READY, "all Secrets"))),
            (
                vec!["robot", "gone"],
                vec![member(&["gone"], &[gone]), member(&["gone"], &[gone])],
                Some((Status::False, reasons::SECRET_MISSING, "Secret gone of spec.credentials does not exist")),
            ),
            (
                vec!["robot"],
                vec![member(&[], &["Secret robot: auths.r.test has no password"]), member(&[], &[])],
                Some((Status::False, reasons::ENTRY_INVALID, "Secret robot: auths.r.test has no password")),
            ),
            // The pool does not name it any more.
            (vec!["robot"], vec![member(&["gone"], &[gone])], Some((Status::True, reasons::READY, ""))),
        ] {
            let said = condition(&spec(&secrets), &members);
            let same = match (&said, &expected) {
                (None, None) => true,
                (Some(said), Some(expected)) => {
                    (said.0, said.1) == (expected.0, expected.1) && said.2.contains(expected.2)
                }
                _ => false,
            };
            assert!(same, "{secrets:?}: {said:?}, expected {expected:?}");
        }
    }
}

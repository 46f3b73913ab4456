//! Which versions of BuildKit are supported: judged by what a daemon reports of itself, because an image's tag proves
//! nothing.

use std::cmp::Ordering;

use semver::Version;

/// The oldest version that is given builds: older ones let a build run commands as the daemon or write outside its
/// directories (GHSA-hw3h-2gp9-cxpv, GHSA-32pv-7hq5-qhwq, GHSA-g2h8-426c-7976).
pub const MINIMUM: Version = Version::new(0, 31, 2);

/// The oldest version without a known security advisory (<https://github.com/moby/buildkit/security/advisories>).
pub const ADVISED: Version = Version::new(0, 34, 2);

/// What buildkitd reports that was compiled without a version.
const UNVERSIONED: Version = Version::new(0, 0, 0);

/// What is to be said of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Older than [`MINIMUM`]: it is given no builds.
    TooOld,
    /// Older than [`ADVISED`]: it works, with known vulnerabilities.
    BelowAdvised,
    /// As it should be.
    Full,
    /// Not a version: a commit, or one that was compiled without. It is given builds, at its owner's risk.
    Unknown,
}

/// Judges a version as a daemon reports it, such as `v0.34.2`.
pub fn support(reported: &str) -> Support {
    let Some(version) = parse(reported) else { return Support::Unknown };
    let before = |least: &Version| version.cmp_precedence(least) == Ordering::Less;
    match () {
        () if before(&MINIMUM) => Support::TooOld,
        () if before(&ADVISED) => Support::BelowAdvised,
        () => Support::Full,
    }
}

/// The version; `None` for what is none.
pub fn parse(reported: &str) -> Option<Version> {
    let text = reported.trim();
    let mut version = Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()?;
    if version.cmp_precedence(&UNVERSIONED) == Ordering::Equal {
        return None;
    }
    // `git describe`: so many commits after the version, not before it.
    if is_described(version.pre.as_str()) {
        version.pre = semver::Prerelease::EMPTY;
    }
    Some(version)
}

fn is_described(pre: &str) -> bool {
    let Some((commits, hash)) = pre.split_once("-g") else { return false };
    let hash = hash.split(['-', '.']).next().unwrap_or_default();
    !commits.is_empty()
        && commits.bytes().all(|byte| byte.is_ascii_digit())
        && hash.len() >= 7
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_what_daemons_report() {
        for (reported, expected) in [
            ("v0.22.0", Support::TooOld),
            ("v0.31.1", Support::TooOld),
            ("v0.31.2-rc1", Support::TooOld),
            ("v0.9.0", Support::TooOld),
            ("v0.31.2", Support::BelowAdvised),
            ("0.31.2", Support::BelowAdvised),
            ("v0.31.2+vendor.1", Support::BelowAdvised),
            ("v0.31.2-4-g0123abc", Support::BelowAdvised),
            ("v0.31.1-4-g0123abc", Support::TooOld),
            ("v0.33.1", Support::BelowAdvised),
            ("v0.34.2", Support::Full),
            ("v0.34.2-12-g0123abcd.m", Support::Full),
            ("v1.0.0", Support::Full),
            ("0.0.0+unknown", Support::Unknown),
            ("", Support::Unknown),
            ("master", Support::Unknown),
            ("3f1c9a7e0c2b", Support::Unknown),
            ("v0.31", Support::Unknown),
        ] {
            assert_eq!(support(reported), expected, "{reported}");
        }
    }
}

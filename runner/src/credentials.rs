//! The registry credentials and certificates that the kubelet mounts into the runner.
//!
//! Their content may change at any time (a Secret is rotated in place), so they are read for every build. They are kept
//! in memory only, and parsed again only if they have changed.

use std::sync::{Arc, Mutex, PoisonError};

use buildpools_buildkit::{Access, Credentials, Trust};
use buildpools_crds::conditions::truncate;
use buildpools_crds::member_config::MemberConfig;

// The limits of `status.members[].warnings`.
const WARNINGS_MAX: usize = 16;
const WARNING_MAX: usize = 512;

/// The mounted files.
#[derive(Debug)]
pub struct Mounted {
    config: MemberConfig,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    read: Option<Files>,
    access: Access,
    problems: Problems,
}

/// What is wrong with what is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// Secrets that do not exist, or have no key `.dockerconfigjson`.
    pub missing_secrets: Vec<String>,
    /// Everything, in words.
    pub warnings: Vec<String>,
}

/// Contents in the order of the configuration; `None` for a file that cannot be read.
#[derive(PartialEq, Eq)]
struct Files {
    credentials: Vec<Option<Vec<u8>>>,
    authorities: Vec<Option<Vec<u8>>>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files(…)")
    }
}

impl Mounted {
    /// Nothing is read yet.
    pub fn new(config: MemberConfig) -> Self {
        Self { config, last: Mutex::default() }
    }

    /// What a build may use now, and what is wrong with it. The files are small and in memory (tmpfs), so reading them
    /// here does not block in any way that matters.
    pub fn load(&self) -> (Access, Problems) {
        let files = self.read();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.read.as_ref() != Some(&files) {
            let same_authorities = last.read.as_ref().is_some_and(|before| before.authorities == files.authorities);
            let mut warnings = Vec::new();
            let credentials = self.credentials(&files, &mut warnings);
            let trust = self.trust(&files, &mut warnings);
            last.access.credentials = Arc::new(credentials);
            // With unchanged certificates, the clients are kept and so are their connections.
            if !same_authorities {
                last.access.trust = Arc::new(trust);
            }
            for warning in &warnings {
                tracing::warn!("credentials: {warning}");
            }
            warnings.truncate(WARNINGS_MAX);
            last.problems = Problems {
                missing_secrets: self.missing(&files),
                warnings: warnings.iter().map(|warning| truncate(warning, WARNING_MAX)).collect(),
            };
            last.read = Some(files);
        }
        (last.access.clone(), last.problems.clone())
    }

    fn read(&self) -> Files {
        let read = |path: &String| std::fs::read(path).ok();
        Files {
            credentials: self.config.credentials.iter().map(|credential| read(&credential.path)).collect(),
            authorities: self.config.registries.iter().map(|registry| read(&registry.path)).collect(),
        }
    }

    fn missing(&self, files: &Files) -> Vec<String> {
        let mounted = self.config.credentials.iter().zip(&files.credentials);
        mounted.filter(|(_, content)| content.is_none()).map(|(mounted, _)| mounted.secret.clone()).collect()
    }

    fn credentials(&self, files: &Files, warnings: &mut Vec<String>) -> Credentials {
        let mut credentials = Credentials::default();
        for (mounted, content) in self.config.credentials.iter().zip(&files.credentials) {
            let secret = &mounted.secret;
            if let Some(json) = content {
                let found = credentials.add_docker_config(&format!("Secret {secret}"), json);
                warnings.extend(found.iter().map(ToString::to_string));
            } else {
                warnings.push(format!("Secret {secret} does not exist or has no key .dockerconfigjson"));
            }
        }
        credentials
    }

    fn trust(&self, files: &Files, warnings: &mut Vec<String>) -> Trust {
        let mut trust = Trust::default();
        for (mounted, content) in self.config.registries.iter().zip(&files.authorities) {
            let problem = match content {
                Some(pem) => trust.add_host(&mounted.host, pem).err().map(|warning| warning.to_string()),
                None => {
                    Some(format!("the CA of registry {} is not there: see spec.registries of the pool", mounted.host))
                }
            };
            warnings.extend(problem);
        }
        trust
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildpools_crds::member_config::{MountedCa, MountedCredential};

    fn mounted(dir: &std::path::Path) -> Mounted {
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        Mounted::new(MemberConfig {
            credentials: vec![
                MountedCredential { secret: "robot".into(), path: path("robot.json") },
                MountedCredential { secret: "other".into(), path: path("other.json") },
            ],
            registries: vec![MountedCa { host: "r.test".into(), path: path("ca.crt") }],
        })
    }

    fn sources(access: &Access) -> Vec<String> {
        access.credentials.entries().map(|entry| format!("{} of {}", entry.host, entry.source)).collect()
    }

    #[test]
    fn a_secret_that_appears_or_changes_is_used_by_the_next_build() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mounted(dir.path());
        let (access, problems) = mounted.load();
        assert!(access.credentials.is_empty());
        assert_eq!(problems.missing_secrets, ["robot", "other"]);
        assert_eq!(
            problems.warnings,
            [
                "Secret robot does not exist or has no key .dockerconfigjson",
                "Secret other does not exist or has no key .dockerconfigjson",
                "the CA of registry r.test is not there: see spec.registries of the pool",
            ]
        );
        std::fs::write(dir.path().join("robot.json"), r#"{"auths":{"r.test":{"username":"u","password":"p"}}}"#)
            .unwrap();
        let (access, problems) = mounted.load();
        assert_eq!(sources(&access), ["r.test of Secret robot"]);
        assert_eq!((problems.warnings.len(), problems.missing_secrets), (2, vec!["other".to_owned()]));
        std::fs::write(dir.path().join("robot.json"), r#"{"auths":{"s.test":{"username":"u","password":"p"}}}"#)
            .unwrap();
        assert_eq!(sources(&mounted.load().0), ["s.test of Secret robot"]);
    }

    #[test]
    fn what_has_not_changed_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mounted(dir.path());
        let first = mounted.load().0;
        let second = mounted.load().0;
        assert!(Arc::ptr_eq(&first.credentials, &second.credentials) && Arc::ptr_eq(&first.trust, &second.trust));
        std::fs::write(dir.path().join("robot.json"), r#"{"auths":{}}"#).unwrap();
        let third = mounted.load().0;
        assert!(!Arc::ptr_eq(&second.credentials, &third.credentials) && Arc::ptr_eq(&second.trust, &third.trust));
        std::fs::write(dir.path().join("ca.crt"), "no certificate").unwrap();
        let (fourth, Problems { warnings, .. }) = mounted.load();
        assert!(!Arc::ptr_eq(&third.trust, &fourth.trust));
        assert!(warnings.iter().any(|warning| warning.contains("r.test")), "{warnings:?}");
    }

    #[test]
    fn a_broken_secret_is_a_warning_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("robot.json"), r#"{"auths":{"r.test":{"auth":"geheim"}}}"#).unwrap();
        let mounted = mounted(dir.path());
        let warnings = mounted.load().1.warnings.join("\n");
        assert!(warnings.contains("Secret robot") && !warnings.contains("geheim"), "{warnings}");
        assert!(!format!("{mounted:?}").contains("geheim"));
    }
}

use super::super::Location;
use super::*;

/// Texts of real daemons (v0.33.1, and v0.22.0 where noted), registries, token servers and git.
const TEXTS: &[(&str, ErrorKind, Option<&str>)] = &[
    ("process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7", ErrorKind::BuildStepFailed, None),
    ("process \"/bin/sh -c x\" did not complete successfully: exit code: 137", ErrorKind::OutOfMemory, None),
    (
        "process \"/bin/sh -c x\" did not complete successfully: exit code: 137: cannot allocate memory",
        ErrorKind::OutOfMemory,
        None,
    ),
    ("failed to copy files: write /var/lib/buildkit/x: no space left on device", ErrorKind::DiskFull, None),
    (
        "failed to compute cache key: failed to calculate checksum of ref abc::def: \"/nothere\": not found",
        ErrorKind::ContextNotFound,
        None,
    ),
    (
        "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        ErrorKind::DockerfileInvalid,
        None,
    ),
    ("no build stage in current context", ErrorKind::DockerfileInvalid, None),
    ("the Dockerfile cannot be empty", ErrorKind::DockerfileInvalid, None),
    ("target stage \"nope\" could not be found", ErrorKind::DockerfileInvalid, None),
    ("failed to parse stage name \"UPPER/x:::1\": invalid reference format", ErrorKind::DockerfileInvalid, None),
    ("secret npm: not found", ErrorKind::DockerfileInvalid, None),
    ("failed to read dockerfile: open Dockerfile: no such file or directory", ErrorKind::ContextNotFound, None),
    (
        "r.test/no/such:1: failed to resolve source metadata for r.test/no/such:1: r.test/no/such:1: not found",
        ErrorKind::ImageNotFound,
        Some("r.test/no/such"),
    ),
    (
        "r.test/a/b:1: failed to resolve source metadata for r.test/a/b:1: failed to do request: Head \"https://r.test/v2/a/b/manifests/1\": dial tcp 10.0.0.1:443: connect: connection refused",
        ErrorKind::RegistryUnavailable,
        Some("r.test/a/b"),
    ),
    (
        "r.test/a/b:1: failed to resolve source metadata for r.test/a/b:1: failed to do request: Head \"https://r.test/v2/a/b/manifests/1\": dial tcp: lookup r.test on 10.0.0.53:53: no such host",
        ErrorKind::RegistryUnavailable,
        Some("r.test/a/b"),
    ),
    (
        "failed to push r.test/a/b:1: failed to do request: Head \"https://r.test/v2/a/b/blobs/sha256:2d\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ErrorKind::CertificateUntrusted,
        Some("r.test/a/b"),
    ),
    (
        "failed to push r.test/a/b:1: unexpected status from PUT request to https://r.test/v2/a/b/manifests/1: 503 Service Unavailable",
        ErrorKind::RegistryUnavailable,
        Some("r.test/a/b"),
    ),
    (
        "failed to push r.test/team-b/app:1: server message: insufficient_scope: authorization failed",
        ErrorKind::RegistryAccessDenied,
        Some("r.test/team-b/app"),
    ),
    (
        "failed to push r.test/team-b/app:1: denied: requested access to the resource is denied",
        ErrorKind::RegistryAccessDenied,
        Some("r.test/team-b/app"),
    ),
    (
        "failed to push r.test/a/b:1: failed to authorize: failed to fetch oauth token: denied: requested access to the resource is denied: a/b:pull",
        ErrorKind::RegistryAccessDenied,
        Some("r.test/a/b"),
    ),
    (
        "r.test/a/b:1: failed to resolve source metadata for r.test/a/b:1: pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
        ErrorKind::RegistryAccessDenied,
        Some("r.test/a/b"),
    ),
    (
        "failed to push r.test/a/b:1: pushing with mount from team-b/base: unexpected status: 403 Forbidden",
        ErrorKind::CrossRepositoryMountDenied,
        Some("r.test/a/b"),
    ),
    (
        "alpine: failed to resolve source metadata for docker.io/library/alpine:latest: toomanyrequests: You have reached your unauthenticated pull rate limit.",
        ErrorKind::RegistryRateLimited,
        Some("docker.io/library/alpine"),
    ),
    ("failed to load cache key: invalid response status 404", ErrorKind::ContextNotFound, None),
    (
        "failed to read downloaded context: failed to load cache key: invalid response status 403",
        ErrorKind::ContextAccessDenied,
        None,
    ),
    ("failed to load cache key: invalid response status 500", ErrorKind::ContextFetchFailed, None),
    (
        "failed to load cache key: Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused",
        ErrorKind::ContextFetchFailed,
        None,
    ),
    (
        "failed to load cache key: failed to fetch remote https://git.test/a.git: git stderr:\nfatal: could not read Username for 'https://git.test': terminal prompts disabled\n: exit status 128",
        ErrorKind::ContextAccessDenied,
        None,
    ),
    (
        "failed to load cache key: failed to fetch remote https://git.test/a.git: git stderr:\nfatal: Authentication failed for 'https://git.test/a.git/'\n: exit status 128",
        ErrorKind::ContextAccessDenied,
        None,
    ),
    (
        "failed to load cache key: failed to fetch remote https://git.test/a.git: git stderr:\nfatal: repository 'https://git.test/a.git/' not found\n: exit status 128",
        ErrorKind::ContextNotFound,
        None,
    ),
    ("failed to load cache key: repository does not contain ref nope, output: \"\"", ErrorKind::ContextNotFound, None),
    (
        "failed to load cache key: failed to fetch remote https://git.test/a.git: git stderr:\nfatal: unable to access 'https://git.test/a.git/': Could not resolve host: git.test\n: exit status 128",
        ErrorKind::ContextFetchFailed,
        None,
    ),
    (
        "failed to fetch remote https://git.test/a.git: git stderr:\nfatal: unable to access 'https://git.test/a.git/': server certificate verification failed. CAfile: none CRLfile: none",
        ErrorKind::CertificateUntrusted,
        None,
    ),
    (
        "failed to load cache key: error fetching default branch for repository git://git.test/a.git: git stderr:\nfatal: remote error: access denied or repository not exported: /a.git\n: exit status 128",
        ErrorKind::ContextAccessDenied,
        None,
    ),
    ("no active session for s1: context deadline exceeded", ErrorKind::DaemonLost, None),
    ("failed to solve: context canceled", ErrorKind::Cancelled, None),
    (
        "process \"/bin/sh -c x\" did not complete successfully: exit code: 137: context canceled",
        ErrorKind::Cancelled,
        None,
    ),
    ("job ID abc-1 exists", ErrorKind::Internal, None),
];

fn unknown(message: &str) -> Details {
    Details { code: i32::from(Code::Unknown), message: message.to_owned(), ..Details::default() }
}

#[test]
fn texts() {
    for (text, kind, image) in TEXTS {
        let error = classify(&unknown(text), Clues::default());
        assert_eq!(error.kind, *kind, "{text}");
        assert_eq!(error.image.map(|image| image.to_string()).as_deref(), *image, "{text}");
        assert!(!error.message.is_empty());
    }
}

#[test]
fn a_failed_step_is_described() {
    let details = Details {
        vertex: Some("sha256:abc".into()),
        location: Some(Location { file: "docker/Dockerfile".into(), line: 3 }),
        exit_code: Some(7),
        ..unknown("process \"/bin/sh -c make\" did not complete successfully: exit code: 7")
    };
    let run = |step: &str, tail: &str| Clues {
        step: Some(step.to_owned()),
        log_tail: vec![tail.to_owned()],
        ..Clues::default()
    };
    let error = classify(&details, run("[2/3] RUN make", "boom"));
    assert_eq!(error.kind, ErrorKind::BuildStepFailed);
    assert_eq!(error.message, "[2/3] RUN make failed with exit code 7 (docker/Dockerfile:3)");
    assert_eq!((error.exit_code, error.step.as_deref()), (Some(7), Some("[2/3] RUN make")));
    assert_eq!((error.log_tail.as_slice(), error.location), (["boom".to_owned()].as_slice(), details.location.clone()));

    let full = classify(&details, run("RUN make", "cc: fatal error: No space left on device"));
    assert_eq!(full.kind, ErrorKind::DiskFull);
    let killed = Details { exit_code: Some(137), ..details };
    assert_eq!(classify(&killed, run("RUN make", "")).kind, ErrorKind::OutOfMemory);
    assert_eq!(classify(&killed, run("RUN kill -9 $$", "")).kind, ErrorKind::BuildStepFailed);
}

#[test]
fn a_lost_connection_is_the_daemon() {
    for message in ["transport error", "h2 protocol error: broken pipe", "context canceled"] {
        let details = Details { connection_lost: true, ..unknown(message) };
        assert_eq!(classify(&details, Clues::default()).kind, ErrorKind::DaemonLost, "{message}");
    }
    assert_eq!(classify(&unknown("transport error"), Clues::default()).kind, ErrorKind::Internal);
}

#[test]
fn a_line_without_a_step_is_an_invalid_dockerfile() {
    let location = Some(Location { file: "Dockerfile".into(), line: 2 });
    let details = Details { location, ..unknown("something the frontend says in words of tomorrow") };
    let error = classify(&details, Clues::default());
    assert_eq!(error.kind, ErrorKind::DockerfileInvalid);
    assert!(error.message.starts_with("the Dockerfile cannot be built (Dockerfile:2): something"), "{error}");
}

fn credentials(host: &str) -> Credentials {
    let mut credentials = Credentials::default();
    let config = format!(r#"{{"auths":{{"{host}":{{"username":"alice","password":"secret-pw"}}}}}}"#);
    credentials.add_docker_config("secret robot", config.as_bytes());
    credentials
}

#[test]
fn a_refusal_depends_on_what_is_known() {
    let denied = unknown("failed to push r.test/team-a/app:1: denied: no");
    for (host, kind, says) in [
        ("r.test/team-a", ErrorKind::RegistryAccessDenied, "refused access to the credential of secret robot"),
        ("r.test/team-b", ErrorKind::RegistryAuthRequired, "r.test/team-a/app wants a login"),
    ] {
        let known = credentials(host);
        let error = classify(&denied, Clues { credentials: Some(&known), ..Clues::default() });
        assert_eq!(error.kind, kind);
        assert!(error.message.contains(says), "{error}");
        assert_eq!(error.image.unwrap().to_string(), "r.test/team-a/app");
    }
}

#[test]
fn a_mount_that_was_refused() {
    let to = ImageRepository { registry: "r.test".into(), repository: "team-a/app".into() };
    let mounts = || vec![(to.clone(), "team-b/base".to_owned())];
    for (text, kind) in [
        ("failed to push r.test/team-a/app:1: denied: no", ErrorKind::CrossRepositoryMountDenied),
        ("failed to push r.test/team-a/app:1: unsupported: no", ErrorKind::CrossRepositoryMountDenied),
        ("failed to push r.test/team-a/other:1: denied: no", ErrorKind::RegistryAccessDenied),
        (
            "failed to push r.test/team-a/app:1: server message: insufficient_scope: authorization failed",
            ErrorKind::RegistryAccessDenied,
        ),
    ] {
        let error = classify(&unknown(text), Clues { mounts: mounts(), ..Clues::default() });
        assert_eq!(error.kind, kind, "{text}");
        assert_eq!(
            error.message.contains("from team-b/base"),
            kind == ErrorKind::CrossRepositoryMountDenied,
            "{error}"
        );
    }
}

fn problem(kind: ErrorKind, repository: &str) -> AuthProblem {
    let image = ImageRepository { registry: "r.test".into(), repository: repository.into() };
    AuthProblem { kind, image, text: format!("cannot push to {repository}: the token server said no") }
}

#[test]
fn problems_with_credentials_come_through() {
    let refused = problem(ErrorKind::RegistryRateLimited, "team-a/app");
    let text = format!("failed to push r.test/team-a/app:1: failed to authorize: {}", token::to_error_text(&refused));
    let error = classify(&unknown(&text), Clues::default());
    assert_eq!((error.kind, &error.message, error.image), (refused.kind, &refused.text, Some(refused.image.clone())));

    // Where the text lost it, the session still knows, if it is about the same repository.
    let text = "failed to push r.test/team-a/app:1: failed to authorize: failed to fetch oauth token";
    for (known, kind) in [
        (refused, ErrorKind::RegistryRateLimited),
        (problem(ErrorKind::RegistryUnavailable, ""), ErrorKind::RegistryUnavailable),
        (problem(ErrorKind::RegistryUnavailable, "team-a/other"), ErrorKind::RegistryAccessDenied),
    ] {
        let error = classify(&unknown(text), Clues { auth: vec![known], ..Clues::default() });
        assert_eq!(error.kind, kind);
    }
}

#[test]
fn messages_hold_no_secret_and_an_end() {
    let text = format!("{}: password secret-pw of https://me:other@r.test/x", "x".repeat(10_000));
    let error = classify(&unknown(&text), Clues { scrubber: Scrubber::new(["secret-pw"]), ..Clues::default() });
    assert!(error.message.len() < 2 * SHOWN, "{}", error.message.len());
    assert!(error.message.ends_with("password [secret] of https://[secret]@r.test/x"), "{error}");
}

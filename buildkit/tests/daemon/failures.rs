//! Builds that fail, and what is said about it: at once, and later from the daemon's history.

use buildpools_buildkit::{Access, Build, BuildError, Context, Dockerfile, ErrorKind, HistoryState, Location};

use crate::support::{Buildkitd, GitServer, Registry, free_port, inline, pushed, with_shell};

/// The error of a build, which the history must tell in the same way.
async fn failure(buildkitd: &Buildkitd, build: &Build) -> BuildError {
    let error = buildkitd.daemon.build(build, &Access::default(), |_| ()).await.unwrap_err();
    let record = buildkitd.daemon.history(&build.reference).await.unwrap().unwrap();
    match record.state {
        HistoryState::Failed(recorded) => {
            assert_eq!(recorded.kind, error.kind);
            assert_eq!(recorded.step, error.step);
            assert_eq!(recorded.location, error.location);
            assert_eq!(recorded.exit_code, error.exit_code);
            assert_eq!(recorded.log_tail, error.log_tail);
            assert_eq!(recorded.image, error.image);
        }
        state => panic!("{state:?} but {error:?}"),
    }
    error
}

#[tokio::test]
async fn a_step_that_fails_is_named_with_its_last_lines() {
    let buildkitd = Buildkitd::start(&[]).await;
    // Comments make the Dockerfile as large as generated ones are: errors carry it whole.
    let comments = "# comment\n".repeat(20_000);
    let build = with_shell(&format!("{comments}RUN seq 1 50; echo oops; exit 7\n"));
    let error = failure(&buildkitd, &build).await;
    assert_eq!(error.kind, ErrorKind::BuildStepFailed);
    assert_eq!(error.exit_code, Some(7));
    assert_eq!(error.step.as_deref(), Some("[3/3] RUN seq 1 50; echo oops; exit 7"));
    assert_eq!(error.location, Some(Location { file: "Dockerfile".into(), line: 20_004 }));
    assert_eq!((error.log_tail.len(), error.log_tail[0].as_str(), error.log_tail[19].as_str()), (20, "32", "oops"));
    assert_eq!(error.message, "[3/3] RUN seq 1 50; echo oops; exit 7 failed with exit code 7 (Dockerfile:20004)");
}

#[tokio::test]
async fn a_step_that_is_killed_ran_out_of_memory() {
    let buildkitd = Buildkitd::start(&[]).await;
    let error = failure(&buildkitd, &with_shell("RUN exit 137")).await;
    assert_eq!((error.kind, error.exit_code), (ErrorKind::OutOfMemory, Some(137)));
}

#[tokio::test]
async fn what_the_dockerfile_asks_for() {
    let registry = Registry::open().await;
    let buildkitd = Buildkitd::start(&[&registry]).await;
    let closed = format!("127.0.0.1:{}", free_port());
    let build = Build { output: pushed(registry.image("team-a/base:1")), ..with_shell("") };
    buildkitd.daemon.build(&build, &Access::default(), |_| ()).await.unwrap();
    let base = format!("FROM {}\n", registry.image("team-a/base:1"));

    for (dockerfile, kind, line, says) in [
        (format!("{base}COPY nothere /x"), ErrorKind::ContextNotFound, Some(2), "\"/nothere\": not found"),
        (format!("{base}\nRUNN x"), ErrorKind::DockerfileInvalid, Some(3), "unknown instruction: RUNN"),
        ("RUN x".to_owned(), ErrorKind::DockerfileInvalid, Some(1), "no build stage"),
        (String::new(), ErrorKind::DockerfileInvalid, None, "cannot be empty"),
        ("FROM UPPER/x:::1".to_owned(), ErrorKind::DockerfileInvalid, Some(1), "invalid reference format"),
        (
            format!("{base}RUN --mount=type=secret,id=npm,required=true true"),
            ErrorKind::DockerfileInvalid,
            Some(2),
            "secret npm: not found",
        ),
        (
            format!("FROM {}", registry.image("no/such:1")),
            ErrorKind::ImageNotFound,
            Some(1),
            "no/such or its tag does not exist",
        ),
        (
            format!("FROM {}", registry.image("team-a/base:2")),
            ErrorKind::ImageNotFound,
            Some(1),
            "team-a/base or its tag",
        ),
        (format!("FROM {closed}/a/b:1"), ErrorKind::RegistryUnavailable, Some(1), "connection refused"),
        (
            "FROM nosuch.invalid/a/b:1".to_owned(),
            ErrorKind::RegistryUnavailable,
            Some(1),
            "nosuch.invalid/a/b cannot be reached",
        ),
        (
            format!("FROM scratch\nADD http://{}/nothing /x", registry.host),
            ErrorKind::ContextNotFound,
            None,
            "invalid response status 404",
        ),
        (
            format!("FROM scratch\nADD http://{closed}/nothing /x"),
            ErrorKind::ContextFetchFailed,
            None,
            "connection refused",
        ),
    ] {
        let error = failure(&buildkitd, &inline(&dockerfile, &[])).await;
        assert_eq!(error.kind, kind, "{dockerfile}: {error:?}");
        assert_eq!(error.location.as_ref().map(|location| location.line), line, "{dockerfile}: {error:?}");
        assert!(error.message.contains(says), "{dockerfile}: {error}");
        let about_registry = matches!(kind, ErrorKind::ImageNotFound | ErrorKind::RegistryUnavailable);
        assert_eq!(error.image.is_some(), about_registry, "{dockerfile}: {error:?}");
    }

    let target = Build { target: Some("nope".into()), ..inline("FROM scratch\nCOPY a /", &[("a", b"")]) };
    let error = failure(&buildkitd, &target).await;
    assert_eq!(error.kind, ErrorKind::DockerfileInvalid);
    assert!(error.message.contains("target stage \"nope\" could not be found"), "{error}");

    let push = Build { output: pushed(format!("{closed}/a/b:1")), ..inline("FROM scratch\nCOPY a /", &[("a", b"")]) };
    let error = failure(&buildkitd, &push).await;
    assert_eq!(error.kind, ErrorKind::RegistryUnavailable);
    assert_eq!(error.image.unwrap().to_string(), format!("{closed}/a/b"));
    assert_eq!(error.step.as_deref(), Some("exporting to image"));

    let file = Build { dockerfile: Dockerfile::Path("nope".into()), ..inline("", &[("a", b"")]) };
    let error = failure(&buildkitd, &file).await;
    assert_eq!(error.kind, ErrorKind::ContextNotFound, "{error:?}");
}

#[tokio::test]
async fn git_contexts_that_cannot_be_had() {
    let buildkitd = Buildkitd::start(&[]).await;
    let git = GitServer::start(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]).await;
    let of = |url: &str, reference: Option<&str>, subdir: Option<&str>| Build {
        context: Context::Git {
            url: url.to_owned(),
            reference: reference.map(str::to_owned),
            subdir: subdir.map(str::to_owned),
        },
        dockerfile: Dockerfile::Path("Dockerfile".into()),
        ..inline("", &[])
    };
    let other = git.url.replace("repo.git", "other.git");
    let closed = format!("git://127.0.0.1:{}/repo.git", free_port());
    for (build, kind) in [
        (of(&git.url, Some("nope"), None), ErrorKind::ContextNotFound),
        (of(&git.url, Some(&"0".repeat(40)), None), ErrorKind::ContextNotFound),
        (of(&git.url, None, Some("nope")), ErrorKind::ContextNotFound),
        (of(&other, None, None), ErrorKind::ContextAccessDenied),
        (of(&closed, None, None), ErrorKind::ContextFetchFailed),
    ] {
        let error = failure(&buildkitd, &build).await;
        assert_eq!(error.kind, kind, "{:?}: {error:?}", build.context);
        assert!(error.image.is_none());
    }
}

//! Builds, from the BuildJob to the registry.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{Dockerfile, FailureReason, JobPhase};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;

#[tokio::test]
async fn git_build_pushes_and_status_has_the_registrys_digest() {
    Tenant::with("git-build", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let job = tenant.job("hello", "main").git("demo/hello.git").push("hello:1");
        let job = job.spec(|spec| drop(spec.args.insert("GREETING".into(), "good morning".into())));
        job.create().await?;

        let namespace = &tenant.namespace;
        let waited = tenant
            .environment
            .kubectl(&["-n", namespace, "wait", "--for=condition=Complete", "--timeout=180s", "buildjob/hello"])
            .await?;
        ensure!(waited.status.success(), "kubectl wait: {}", String::from_utf8_lossy(&waited.stderr));

        let status = tenant.ended("hello").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let image = status.image.context("status.image")?;
        let registry = tenant.environment.registry("alice")?;
        let pushed = registry.digest(&tenant.repository("hello"), "1").await?;
        ensure!(pushed.as_deref() == Some(image.digest.as_str()), "pushed {pushed:?}, status says {}", image.digest);
        ensure!(image.names == [tenant.image("hello:1")], "{:?}", image.names);
        ensure!(status.attempts.len() == 1 && status.attempts[0].result.as_deref() == Some("Succeeded"));

        let log = tenant.log("main-0", "runner").await?;
        ensure!(log.contains("the greeting is: good morning"), "the build argument did not arrive:\n{log}");
        ensure!(log.lines().any(|line| line.starts_with("[hello] ") && line.contains(&image.digest)), "{log}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn inline_files_target_and_inline_dockerfile_are_built() {
    Tenant::with("inline", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile = format!(
            "FROM {BASE} AS first\nCOPY conf/app.txt /app.txt\nRUN cat /app.txt && echo reached-first\n\
             FROM first\nRUN echo reached-second\n"
        );
        let files = [("Dockerfile.prod", dockerfile.as_str()), ("conf/app.txt", "from-a-file")];
        let job = tenant.job("staged", "main").files(&files).push("staged:1").spec(|spec| {
            spec.dockerfile = Dockerfile { path: Some("Dockerfile.prod".into()), inline: None };
            spec.target = Some("first".into());
        });
        let status = job.run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let log = tenant.log("main-0", "runner").await?;
        ensure!(log.contains("from-a-file") && log.contains("reached-first"), "{log}");
        ensure!(!log.contains("reached-second"), "the stage after the target was built:\n{log}");

        // A git context with a Dockerfile of the job's own, not pushed: built, a digest, nothing in the registry.
        let job = tenant.job("overlaid", "main").git("demo/hello.git").push("overlaid:1").spec(|spec| {
            spec.dockerfile.inline = Some(format!("FROM {BASE}\nCOPY README.md /\nRUN echo overlaid-build\n"));
            if let Some(image) = &mut spec.output.image {
                image.push = false;
            }
        });
        let status = job.run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let image = status.image.context("status.image")?;
        ensure!(image.digest.starts_with("sha256:") && image.names.is_empty(), "{image:?}");
        let registry = tenant.environment.registry("alice")?;
        ensure!(!registry.exists(&tenant.repository("overlaid"), "1").await?, "pushed in spite of push: false");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn wrong_password_is_named_and_never_shown() {
    Tenant::with("wrong-password", async |tenant| {
        let password = "hunter2-is-not-the-password";
        tenant.login("wrong", "alice", password).await?;
        let pool = tenant.pool("main").spec(|spec| spec.credentials[0].secret_ref.name = "wrong".into());
        pool.create_ready().await?;
        let status = tenant.job("push", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").run().await?;
        ensure!(status.phase == JobPhase::Failed);
        let failure = status.failure.clone().context("status.failure")?;
        ensure!(failure.reason == FailureReason::RegistryAccessDenied, "{failure:?}");
        for part in [tenant.environment.cluster.registry.clone(), tenant.repository("app")] {
            ensure!(failure.message.contains(&part), "the message does not name {part}: {}", failure.message);
        }
        ensure!(status.attempts.len() == 1, "a denied push was tried again: {:?}", status.attempts);

        let events = tenant.api::<Event>().list(&ListParams::default()).await?;
        let operator = tenant
            .environment
            .kubectl(&["-n", "buildpools-system", "logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1"])
            .await?;
        let places = [
            ("runner log", tenant.log("main-0", "runner").await?),
            ("daemon log", tenant.log("main-0", "buildkitd").await?),
            ("operator log", String::from_utf8_lossy(&operator.stdout).into_owned()),
            ("events", serde_json::to_string(&events.items)?),
            ("job", serde_json::to_string(&tenant.jobs().get("push").await?)?),
            ("pool", serde_json::to_string(&tenant.pools().get("main").await?)?),
            ("pods", serde_json::to_string(&tenant.pods().list(&ListParams::default()).await?.items)?),
        ];
        let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("alice:{password}"));
        for (place, text) in places {
            ensure!(!text.contains(password) && !text.contains(&encoded), "the credential stands in the {place}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_form_of_docker_config_pushes() {
    Tenant::with("docker-config", async |tenant| {
        let registry = &tenant.environment.cluster.registry;
        let auth = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "alice:alice-password");
        // Beside the good entry: another host, an entry that cannot be decoded, a host with a scheme.
        let config = serde_json::json!({"auths": {
            "broken.example.com": {"auth": "%%%"},
            "https://index.docker.io/v1/": {"username": "u", "password": "p"},
            registry: {"auth": auth},
        }});
        tenant.docker_config("several", &config.to_string()).await?;
        let pool = tenant.pool("main").spec(|spec| spec.credentials[0].secret_ref.name = "several".into());
        pool.create_ready().await?;
        let status = tenant.job("push", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);

        let pool = wait::until(&tenant.pools(), "main", "the member warns of the broken entry", wait::SOON, |pool| {
            pool.and_then(|pool| pool.status.as_ref())
                .is_some_and(|s| s.members.iter().flat_map(|m| &m.warnings).any(|w| w.contains("broken.example.com")))
        })
        .await?;
        let members = pool.and_then(|pool| pool.status).unwrap_or_default().members;
        ensure!(members[0].version.as_deref().is_some_and(|v| v.contains("0.33")), "{members:?}");
        ensure!(members[0].snapshotter.as_deref() == Some("overlayfs"), "{members:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn failing_step_is_reported_with_line_exit_code_and_log() {
    Tenant::with("failing-step", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile =
            format!("FROM {BASE}\nRUN true\n\nRUN echo compiling && echo undefined reference >&2 && exit 7\n");
        let status = tenant.job("broken", "main").inline(&dockerfile).run().await?;
        ensure!(status.phase == JobPhase::Failed);
        let failure = status.failure.context("status.failure")?;
        ensure!(failure.reason == FailureReason::BuildStepFailed, "{failure:?}");
        ensure!(failure.exit_code == Some(7), "{failure:?}");
        ensure!(failure.step.as_deref().is_some_and(|step| step.contains("RUN echo compiling")), "{failure:?}");
        let location = failure.location.clone().context("failure.location")?;
        ensure!((location.file.as_str(), location.line) == ("Dockerfile", 4), "{location:?}");
        ensure!(failure.log_tail.iter().any(|line| line.contains("compiling")), "{failure:?}");
        ensure!(failure.log_tail.iter().any(|line| line.contains("undefined reference")), "{failure:?}");
        ensure!(status.attempts.len() == 1, "a user's failure was retried");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn faults_of_the_user_have_their_own_reasons() {
    Tenant::with("reasons", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let missing = tenant.image("nothing-here:1");
        let cases = [
            ("invalid", tenant.job("invalid", "main").inline("FORM scratch\n"), FailureReason::DockerfileInvalid),
            (
                "no-image",
                tenant.job("no-image", "main").inline(&format!("FROM {missing}\n")),
                FailureReason::ImageNotFound,
            ),
            ("no-repo", tenant.job("no-repo", "main").git("demo/nothing.git"), FailureReason::ContextNotFound),
            (
                "foreign",
                tenant.job("foreign", "main").inline("FROM scratch\nCOPY Dockerfile /\n").spec(|spec| {
                    let names = vec!["registry.buildpools.test:5000/team-b/app:1".into()];
                    spec.output.image = Some(buildpools_crds::v1alpha1::ImageOutput { names, push: true });
                }),
                FailureReason::RegistryAccessDenied,
            ),
            (
                "slow",
                tenant
                    .job("slow", "main")
                    .inline(&format!("FROM {BASE}\nRUN sleep 120\n"))
                    .spec(|spec| spec.timeout = Some(std::time::Duration::from_secs(3).into())),
                FailureReason::Timeout,
            ),
            (
                "too-long",
                tenant
                    .job("too-long", "main")
                    .inline("FROM scratch\n")
                    .spec(|spec| spec.timeout = Some(std::time::Duration::from_hours(1).into())),
                FailureReason::PolicyDenied,
            ),
        ];
        for (name, job, reason) in cases {
            let status = job.run().await?;
            let failure = status.failure.with_context(|| format!("{name} did not fail"))?;
            ensure!(failure.reason == reason, "{name}: expected {reason:?}, got {failure:?}");
            ensure!(!failure.message.is_empty(), "{name} has no message");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn more_jobs_than_slots_all_end_and_never_exceed_the_slots() {
    Tenant::with("slots", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 2).create_ready().await?;
        for index in 0..6 {
            let dockerfile = format!("FROM {BASE}\nRUN echo build {index} && sleep 1\n");
            tenant.job(&format!("job-{index}"), "main").inline(&dockerfile).create().await?;
        }
        let mut spans = vec![];
        for index in 0..6 {
            let status = tenant.ended(&format!("job-{index}")).await?;
            ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
            let attempt = status.attempts.first().context("attempt")?;
            let finished = attempt.finished_at.clone().context("finishedAt")?;
            spans.push((attempt.started_at.0, finished.0));
        }
        let most = spans.iter().map(|(at, _)| spans.iter().filter(|(s, f)| s <= at && at < f).count()).max();
        ensure!(most == Some(2), "{most:?} builds ran at once: {spans:?}");
        Ok(())
    })
    .await;
}

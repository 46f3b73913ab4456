//! The same build by BuildKit's own command line.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::site::{self, Site};
use crate::harness::Environment;

/// buildctl, with a login and a context.
pub struct Buildctl {
    program: PathBuf,
    address: String,
    context: PathBuf,
    docker_config: PathBuf,
    ca: PathBuf,
    log: PathBuf,
    image: String,
}

impl Buildctl {
    /// Builds this Dockerfile in the daemon at `socket` and pushes it under the name `image`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(
        environment: &Environment,
        site: &Site,
        socket: &std::path::Path,
        dockerfile: &str,
        image: &str,
    ) -> anyhow::Result<Self> {
        site.write("context/Dockerfile", dockerfile)?;
        site.write("docker/config.json", &site::docker_config(environment))?;
        Ok(Self {
            program: environment.cluster.tool("buildctl"),
            address: format!("unix://{}", socket.display()),
            context: site.path("context"),
            docker_config: site.path("docker"),
            ca: environment.cluster.ca.clone(),
            log: site.path("buildctl.log"),
            image: image.to_owned(),
        })
    }

    /// Runs it; from before the process is started until it has ended.
    ///
    /// # Errors
    /// When the build fails.
    pub async fn run(&self) -> anyhow::Result<Duration> {
        let log = File::create(&self.log)?;
        let mut command = Command::new(&self.program);
        command.arg("--addr").arg(&self.address);
        command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        command.arg("--local").arg(format!("context={}", self.context.display()));
        command.arg("--local").arg(format!("dockerfile={}", self.context.display()));
        command.arg("--output").arg(format!("type=image,name={},push=true", self.image));
        // With this one authority instead of the system's hundred, buildctl starts a little faster than it usually does.
        command.env_clear().env("DOCKER_CONFIG", &self.docker_config).env("SSL_CERT_FILE", &self.ca);
        command.env("HOME", &self.context).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.kill_on_drop(true);
        let began = Instant::now();
        let status = command.spawn().with_context(|| self.program.display().to_string())?.wait().await?;
        let took = began.elapsed();
        ensure!(status.success(), "buildctl failed:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        Ok(took)
    }
}

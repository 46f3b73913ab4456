//! BuildKit on the host, for the moment that it takes to build an image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Layout;
use super::cgroup::Group;
use super::tools::output;

/// The control group of the builds' steps.
const GROUP: &str = "buildpools-images";

/// What BuildKit builds.
#[derive(Debug, Default)]
pub struct Build<'a> {
    /// Directory of the Dockerfile.
    pub dockerfile: PathBuf,
    /// Directory of the files that it copies.
    pub context: PathBuf,
    /// The stage to build; the last one when empty.
    pub target: &'a str,
    /// Directories that stand in for a stage or image of that name.
    pub directories: Vec<(&'a str, PathBuf)>,
    /// OCI layout directories that stand in for the image of that name.
    pub bases: Vec<(&'a str, PathBuf)>,
}

/// A running buildkitd. Dropping it stops it.
#[derive(Debug)]
pub struct Builder {
    daemon: Child,
    address: String,
    buildctl: PathBuf,
    group: Group,
    _lock: File,
}

impl Builder {
    /// Starts BuildKit; one at a time for each cache.
    pub fn start(layout: &Layout) -> Result<Self> {
        let lock = layout.lock("builder")?;
        let directory = layout.cache.join("images/buildkitd");
        fs::create_dir_all(&directory)?;
        let group = Group::new(GROUP)?;
        // What a builder that was killed has left behind.
        group.destroy()?;
        let config = directory.join("buildkitd.toml");
        let root = directory.join("root");
        let address = format!("unix://{}", directory.join("buildkitd.sock").display());
        fs::write(
            &config,
            format!(
                "root = \"{root}\"\n[grpc]\naddress = [\"{address}\"]\n[worker.containerd]\nenabled = false\n\
                 [worker.oci]\nenabled = true\nbinary = \"{runc}\"\nnetworkMode = \"host\"\n\
                 defaultCgroupParent = \"/{GROUP}\"\nreservedSpace = \"2GB\"\nmaxUsedSpace = \"4GB\"\n",
                root = root.display(),
                runc = layout.tool("runc").display(),
            ),
        )?;
        let log = directory.join("buildkitd.log");
        let log_file = File::create(&log)?;
        // Its mounts stay in a namespace of its own, so that they end with it.
        let daemon = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(layout.tool("buildkitd"))
            .arg("--config")
            .arg(&config)
            .env("PATH", layout.search_path())
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            .spawn()
            .context("cannot start buildkitd")?;
        let mut builder = Self { daemon, address, buildctl: layout.tool("buildctl"), group, _lock: lock };
        builder.wait(&log)?;
        Ok(builder)
    }

    fn wait(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while output(self.buildctl().args(["debug", "workers"])).is_err() {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("buildkitd ended ({status}), see {}", log.display());
            }
            ensure!(Instant::now() < deadline, "buildkitd does not answer, see {}", log.display());
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new(&self.buildctl);
        command.args(["--addr", &self.address]);
        command
    }

    /// Builds what a file with LLB says, and writes its build cache into the directory `result`, as an OCI layout.
    pub fn cache(&self, definition: &Path, result: &Path) -> Result<()> {
        let mut buildctl = self.buildctl();
        buildctl.args(["build", "--progress=plain", "--export-cache"]);
        buildctl.arg(format!("type=local,mode=max,dest={}", result.display()));
        output(buildctl.stdin(File::open(definition)?)).map(drop)
    }

    /// Builds an image into the directory `result`, as an OCI layout whose image is called `name`. The directory appears
    /// complete or not at all.
    pub fn build(&self, build: &Build<'_>, name: &str, result: &Path) -> Result<()> {
        let unfinished = result.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let mut buildctl = self.buildctl();
        buildctl.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        buildctl.arg("--local").arg(format!("dockerfile={}", build.dockerfile.display()));
        buildctl.arg("--local").arg(format!("context={}", build.context.display()));
        if !build.target.is_empty() {
            buildctl.args(["--opt", &format!("target={}", build.target)]);
        }
        for (index, (replaces, directory)) in build.directories.iter().enumerate() {
            buildctl.arg("--local").arg(format!("directory{index}={}", directory.display()));
            buildctl.args(["--opt", &format!("context:{replaces}=local:directory{index}")]);
        }
        for (index, (replaces, layout)) in build.bases.iter().enumerate() {
            let digest = digest(layout)?;
            buildctl.arg("--oci-layout").arg(format!("base{index}={}", layout.display()));
            buildctl.args(["--opt", &format!("context:{replaces}=oci-layout://base{index}@{digest}")]);
        }
        // Uncompressed: it is imported on this machine only.
        buildctl.arg("--output").arg(format!(
            "type=oci,tar=false,compression=uncompressed,force-compression=true,name={name},dest={}",
            unfinished.display()
        ));
        output(&mut buildctl)?;
        if result.exists() {
            fs::remove_dir_all(result)?;
        }
        fs::rename(&unfinished, result).with_context(|| result.display().to_string())
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        drop(self.daemon.wait());
        if let Err(error) = self.group.destroy() {
            eprintln!("cluster: {error:#}");
        }
    }
}

/// The digest of the one image in an OCI layout directory.
pub fn digest(layout: &Path) -> Result<String> {
    let path = layout.join("index.json");
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let index: serde_json::Value = serde_json::from_slice(&text)?;
    let digest = index["manifests"][0]["digest"].as_str();
    digest.map(str::to_owned).with_context(|| format!("{} names no image", path.display()))
}

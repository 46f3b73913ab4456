//! The images of the cluster, each described by a Dockerfile and built from what this machine has.
//!
//! The images that belong to the cluster are built once and cached by a hash of all that goes into them; [`load`] makes
//! those of the project itself again whenever it is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::builder::{Build, Builder};
use super::layout::repository;
use super::steps::Step;
use super::tools::{output, resolve};
use super::{Layout, containerd, node};

/// The sandbox image.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The base of the tests' builds and pods.
pub const BUSYBOX: &str = "docker.io/library/busybox:stable";
/// BuildKit for pools of profile Rootless.
pub const BUILDKIT: &str = "docker.io/moby/buildkit:v0.33.1-rootless";
/// BuildKit for pools of profile UserNamespace.
pub const BUILDKIT_PLAIN: &str = "docker.io/moby/buildkit:v0.33.1";
/// The operator, as [`load`] makes it.
pub const OPERATOR: &str = "docker.io/buildpools/operator:dev";
/// The runner, as [`load`] makes it.
pub const RUNNER: &str = "docker.io/buildpools/runner:dev";

const DEBIAN_RELEASE: &str = "bookworm";
/// The base that the root Dockerfile names.
const DISTROLESS: &str = "gcr.io/distroless/cc-debian12:nonroot";

/// The cached images: OCI layout directories.
#[derive(Clone, Debug)]
pub struct Images {
    /// [`BUSYBOX`].
    pub busybox: PathBuf,
    /// [`PAUSE`].
    pub pause: PathBuf,
    /// [`BUILDKIT`].
    pub buildkit: PathBuf,
    /// [`BUILDKIT_PLAIN`].
    pub buildkit_plain: PathBuf,
    /// The base of operator and runner.
    cc: PathBuf,
}

impl Images {
    /// Builds the images that are not in the cache.
    pub fn ensure(layout: &Layout) -> Result<Self> {
        let _lock = layout.lock("images")?;
        fs::create_dir_all(layout.cache.join("images"))?;
        let mut maker = Maker { layout, builder: None };
        let busybox_program = PathBuf::from("/bin/busybox");
        let busybox = maker.image("busybox", BUSYBOX, &[("busybox", &busybox_program)], &[])?;
        let pause = maker.image("pause", PAUSE, &[("busybox", &busybox_program)], &[])?;
        let rootfs = maker.debian_rootfs()?;
        let debian = maker.image("debian", "debian", &[("rootfs.tar", &rootfs)], &[])?;
        let cc = maker.image("cc", DISTROLESS, &[], &[("debian", &debian)])?;
        let files = [
            ("buildkitd", resolve(layout, "buildkitd")?),
            ("buildctl", resolve(layout, "buildctl")?),
            ("rootlesskit", resolve(layout, "rootlesskit")?),
            ("buildkit-runc", resolve(layout, "runc")?),
            ("ca.crt", layout.ca_cert()),
        ];
        let files = files.each_ref().map(|(name, path)| (*name, path.as_path()));
        let buildkit = maker.image("buildkit", BUILDKIT, &files, &[("debian", &debian)])?;
        let files: Vec<_> = files.into_iter().filter(|(name, _)| *name != "rootlesskit").collect();
        let buildkit_plain = maker.image("buildkit-plain", BUILDKIT_PLAIN, &files, &[("debian", &debian)])?;
        Ok(Self { busybox, pause, buildkit, buildkit_plain, cc })
    }

    /// Imports what pods use, the sandbox image first.
    pub fn import(&self, layout: &Layout) -> Result<()> {
        let images = [&self.pause, &self.busybox, &self.buildkit, &self.buildkit_plain];
        images.into_iter().try_for_each(|image| containerd::import(layout, image))
    }
}

struct Maker<'a> {
    layout: &'a Layout,
    /// Started for the first image that has to be built.
    builder: Option<Builder>,
}

impl Maker<'_> {
    /// The image that `e2e/images/<folder>` describes, with these files in its context besides those of the folder and
    /// these bases. Returns its OCI layout directory.
    fn image(&mut self, folder: &str, name: &str, files: &[(&str, &Path)], bases: &[(&str, &Path)]) -> Result<PathBuf> {
        let source = repository().join("e2e/images").join(folder);
        let cache = self.layout.cache.join("images");
        let mut inputs = Sha256::new();
        inputs.update(name);
        let mut own: Vec<_> = fs::read_dir(&source)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        own.sort();
        for file in &own {
            inputs.update(fs::read(file)?);
        }
        for (file, path) in files {
            inputs.update(file);
            if path.starts_with(&self.layout.cache) && !path.ends_with("ca.crt") {
                // The path of what is cached tells its content.
                inputs.update(path.as_os_str().as_encoded_bytes());
            } else {
                inputs.update(fs::read(path).with_context(|| path.display().to_string())?);
            }
        }
        for (base, path) in bases {
            inputs.update(base);
            inputs.update(path.as_os_str().as_encoded_bytes());
        }
        let result = cache.join(format!("{folder}-{}", &format!("{:x}", inputs.finalize())[..12]));
        if result.exists() {
            return Ok(result);
        }

        let step = Step::announced(format!("image {name} built"));
        let context = cache.join(format!("context-{folder}"));
        fresh_directory(&context)?;
        for file in &own {
            fs::copy(file, context.join(file.file_name().context("a file has a name")?))?;
        }
        for (file, path) in files {
            fs::copy(path, context.join(file)).with_context(|| path.display().to_string())?;
        }
        let bases = bases.iter().map(|(base, path)| (*base, path.to_path_buf())).collect();
        let build = Build { dockerfile: source, context: context.clone(), bases, ..Build::default() };
        if self.builder.is_none() {
            self.builder = Some(Builder::start(self.layout)?);
        }
        self.builder.as_ref().context("started above")?.build(&build, name, &result)?;
        fs::remove_dir_all(&context)?;
        step.done();
        Ok(result)
    }

    /// A root file system with the packages of `e2e/images/debian`, as a tar file.
    fn debian_rootfs(&self) -> Result<PathBuf> {
        let packages = fs::read_to_string(repository().join("e2e/images/debian/packages"))?;
        let packages: Vec<_> = packages.split_whitespace().collect();
        let hash = format!("{:x}", Sha256::digest(format!("{DEBIAN_RELEASE} {packages:?}")));
        let result = self.layout.cache.join(format!("images/rootfs-{}.tar", &hash[..12]));
        if !result.exists() {
            let step = Step::announced(format!("Debian {DEBIAN_RELEASE} installed for images"));
            let unfinished = result.with_extension("unfinished.tar");
            let include = format!("--include={}", packages.join(","));
            // What packages leave behind and nobody reads in a container.
            let unwanted = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
            let unwanted = unwanted.map(|path| format!("--dpkgopt=path-exclude={path}"));
            let mut mmdebstrap = Command::new("mmdebstrap");
            mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", &include]).args(unwanted);
            output(mmdebstrap.arg(DEBIAN_RELEASE).arg(&unfinished))?;
            fs::rename(&unfinished, &result)?;
            step.done();
        }
        Ok(result)
    }
}

fn fresh_directory(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}

/// Compiles operator and runner.
pub fn compile() -> Result<()> {
    let step = Step::announced("operator and runner compiled");
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--quiet", "--locked", "--package=buildpools-operator", "--package=buildpools-runner"]);
    cargo.arg("--manifest-path").arg(repository().join("Cargo.toml"));
    if let Some(directory) = node::target_directory().parent() {
        cargo.arg("--target-dir").arg(directory);
    }
    let status = cargo.status().context("cargo")?;
    ensure!(status.success(), "operator and runner do not compile, see above");
    step.done();
    Ok(())
}

/// Builds the images of the compiled operator and runner from the repository's Dockerfile and imports them into the
/// running cluster. Pods that are to use them have to be started anew.
pub fn load(layout: &Layout) -> Result<()> {
    let target = node::target_directory();
    let step = Step::new("operator and runner images built and imported");
    let base = Images::ensure(layout)?.cc;
    let _lock = layout.lock("images")?;
    let work = layout.cache.join("images/load");
    fresh_directory(&work.join("build/out"))?;
    fresh_directory(&work.join("context"))?;
    let builder = Builder::start(layout)?;
    for (name, image) in [("operator", OPERATOR), ("runner", RUNNER)] {
        let program = format!("buildpools-{name}");
        let stripped = work.join("build/out").join(&program);
        output(Command::new("strip").arg("--strip-debug").arg("-o").arg(stripped).arg(target.join(&program)))?;
        let build = Build {
            dockerfile: repository().to_owned(),
            context: work.join("context"),
            target: name,
            directories: vec![("build", work.join("build"))],
            bases: vec![(DISTROLESS, base.clone())],
        };
        let result = work.join(name);
        builder.build(&build, image, &result)?;
        containerd::import(layout, &result)?;
    }
    step.done();
    Ok(())
}

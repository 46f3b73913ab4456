//! A real buildkitd and a real registry, each of its own for every test.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buildpools_buildkit::{Build, Context, Daemon, Dockerfile, Output};
use tokio::time::Instant;

/// How long a daemon or registry may take to start on a loaded machine.
const START: Duration = Duration::from_mins(1);

/// `$BUILDPOOLS_CACHE/tools/bin`, where `make tools` puts them.
pub fn tool(name: &str) -> PathBuf {
    let cache = std::env::var_os("BUILDPOOLS_CACHE").map_or_else(
        || {
            let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
            let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
            base.unwrap_or_else(home).join("buildpools")
        },
        PathBuf::from,
    );
    let path = cache.join("tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make tools` first", path.display());
    path
}

/// A process that dies with the test's thread, and with it all that it started and mounted.
pub struct Process(Child);

impl Process {
    fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(program)
            .args(args)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that is removed at the end.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("buildpools-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A registry on loopback, over plain HTTP.
pub struct Registry {
    pub host: String,
    _process: Process,
    _dir: TempDir,
}

impl Registry {
    /// `auth` is the `auth:` section of the registry's configuration; empty for an open one.
    pub async fn start(auth: &str) -> Self {
        let dir = TempDir::new();
        let host = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}, secret: test}}\n{auth}",
            dir.0.join("data").display(),
        );
        let path = dir.0.join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = dir.0.join("registry.log");
        let process = Process::start(&tool("registry"), &["serve", path.to_str().unwrap()], &log);
        wait_for_port(&host, &log).await;
        Self { host, _process: process, _dir: dir }
    }

    pub async fn open() -> Self {
        Self::start("").await
    }

    /// An image name in this registry.
    pub fn image(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.host)
    }
}

/// A rootful buildkitd.
pub struct Buildkitd {
    pub daemon: Daemon,
    pub process: Process,
    _dir: TempDir,
}

impl Buildkitd {
    pub async fn start(registries: &[&Registry]) -> Self {
        let dir = TempDir::new();
        let socket = dir.0.join("buildkitd.sock");
        let config = dir.0.join("buildkitd.toml");
        let registries = registries.iter().map(|registry| format!("[registry.\"{}\"]\nhttp = true\n", registry.host));
        // Its default place is shared by all daemons of a machine.
        let otel = format!("[otel]\nsocketPath = \"{}\"\n", dir.0.join("otel.sock").display());
        std::fs::write(&config, otel + &registries.collect::<String>()).unwrap();
        let address = format!("unix://{}", socket.display());
        let root = dir.0.join("root");
        let log = dir.0.join("buildkitd.log");
        let args = ["--config", config.to_str().unwrap(), "--root", root.to_str().unwrap(), "--addr", &address];
        let process = Process::start(&tool("buildkitd"), &args, &log);
        let daemon = Daemon::connect_until(&socket, Instant::now() + START).await;
        let daemon = daemon.unwrap_or_else(|error| panic!("{error}: {}", std::fs::read_to_string(&log).unwrap()));
        Self { daemon, process, _dir: dir }
    }
}

/// A repository with one commit on `main`, served by git itself.
pub struct GitServer {
    pub url: String,
    pub commit: String,
    _process: Process,
    _dir: TempDir,
}

impl GitServer {
    pub async fn start(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new();
        let work = dir.0.join("work");
        let git = |args: &[&str]| {
            let identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
            let output = Command::new("git").arg("-C").arg(&work).args(identity).args(args).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        for (path, text) in files {
            let path = work.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message=first"]);
        git(&["clone", "--quiet", "--bare", ".", "../repo.git"]);
        let commit = git(&["rev-parse", "HEAD"]);
        let port = free_port();
        let base = format!("--base-path={}", dir.0.display());
        let port_option = format!("--port={port}");
        let args = ["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", &port_option, &base];
        let log = dir.0.join("git.log");
        let process = Process::start(Path::new("/usr/bin/git"), &args, &log);
        wait_for_port(&format!("127.0.0.1:{port}"), &log).await;
        Self { url: format!("git://127.0.0.1:{port}/repo.git"), commit, _process: process, _dir: dir }
    }
}

async fn wait_for_port(address: &str, log: &Path) {
    let deadline = Instant::now() + START;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody at {address}: {}", std::fs::read_to_string(log).unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A build of inline files, with a Ref of its own.
pub fn inline(dockerfile: &str, files: &[(&str, &[u8])]) -> Build {
    Build {
        reference: uuid::Uuid::new_v4().to_string(),
        context: Context::Inline(files.iter().map(|(path, data)| ((*path).to_owned(), data.to_vec())).collect()),
        dockerfile: Dockerfile::Inline(dockerfile.to_owned()),
        target: None,
        build_args: BTreeMap::new(),
        output: None,
    }
}

/// A build with a shell: busybox is in the context, so that no registry is needed. `steps` follow `FROM`.
pub fn with_shell(steps: &str) -> Build {
    let busybox = std::fs::read("/bin/busybox").expect("/bin/busybox (Debian: busybox-static)");
    let dockerfile = format!(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n{steps}"
    );
    inline(&dockerfile, &[("busybox", &busybox)])
}

#[allow(clippy::unnecessary_wraps)] // as the field wants it
pub fn pushed(name: String) -> Option<Output> {
    Some(Output { names: vec![name], push: true })
}

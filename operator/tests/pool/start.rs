//! The daemon's entry point, run by the shell with a daemon that is played.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pool/build/start.sh");
const DAMAGED: &str = "buildkitd: failed to open metadata: invalid database";
const PANIC: &str = "panic: invalid freelist page: 7092351228331313525\\n\\ngoroutine 1 [running]:\\ngo.etcd.io/bbolt.(*DB).loadFreelist";

struct Volume(tempfile::TempDir);

impl Volume {
    /// With a cache in it.
    fn new() -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(volume.path("root/deep")).unwrap();
        std::fs::write(volume.path("root/deep/layer"), "x").unwrap();
        volume
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn has_cache(&self) -> bool {
        self.path("root/deep/layer").exists()
    }

    /// A daemon that ends with these words and this code until the cache was emptied, and well from then on.
    fn daemon(&self, words: &str, code: i32) -> Command {
        let healed = self.path(".buildpools-healed");
        let program = format!(
            "if [ -L {0} ] || [ ! -e {0} ]; then printf '{words}\\n' >&2; exit {code}; fi; echo fresh >&2",
            healed.display()
        );
        let mut command = Command::new("sh");
        command
            .arg(SCRIPT)
            .arg(self.0.path())
            .args(["sh", "-c", &program])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Its exit code, and what it said.
    fn run(&self, words: &str, code: i32) -> (i32, String) {
        let output = self.daemon(words, code).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_damaged_database_empties_the_cache_the_third_time() {
    for words in [DAMAGED, PANIC, "buildkitd: file size too small 3000"] {
        let volume = Volume::new();
        for time in 1..=2 {
            let (code, said) = volume.run(words, 7);
            assert_eq!(code, 7);
            let last = format!("the cache's database is damaged ({time} of 3 times before the cache is emptied)\n");
            assert!(said.ends_with(&last), "{said}");
            assert!(volume.has_cache() && !volume.path(".buildpools-healed").exists());
        }
        let (code, said) = volume.run(words, 7);
        assert_eq!(code, 0, "the daemon is started again at once: {said}");
        assert!(said.ends_with("emptying the cache\nfresh\n"), "{said}");
        assert!(!volume.has_cache() && !volume.path("root.damaged").exists());
        let healed: u64 = std::fs::read_to_string(volume.path(".buildpools-healed")).unwrap().trim().parse().unwrap();
        assert!(healed > 1_700_000_000);
        assert!(!volume.path(".buildpools-damaged").exists(), "the count begins anew");
    }
}

#[test]
fn only_a_damaged_database_empties_the_cache() {
    for (words, code) in [
        ("buildkitd: open /root/metadata_v2.db: no space left on device", 1),
        ("buildkitd: invalid database\\nwrite: no space left on device", 1),
        ("buildkitd: could not load config: toml: invalid", 1),
        ("panic: runtime error: index out of range\\ngoroutine 1 [running]:\\nmain.main()", 2),
        ("level=error msg=\"a build said: invalid database\"", 1),
        (DAMAGED, 0),
    ] {
        let volume = Volume::new();
        for _ in 0..4 {
            let (ended, said) = volume.run(words, code);
            assert_eq!(ended, code, "{said}");
            assert!(!said.contains("buildpools:"), "{said}");
        }
        assert!(volume.has_cache(), "{words}");
    }
}

#[test]
fn ends_of_long_ago_do_not_count() {
    let volume = Volume::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(volume.path(".buildpools-damaged"), format!("{}\n{}\n", now - 4000, now - 2000)).unwrap();
    assert!(volume.run(DAMAGED, 1).1.contains("(1 of 3 times"));
    assert!(volume.run(DAMAGED, 1).1.contains("(2 of 3 times"));
    assert!(volume.has_cache());
}

#[test]
fn what_a_build_has_put_beside_the_cache_is_not_followed() {
    let volume = Volume::new();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "1\n2\n3\n").unwrap();
    symlink(&secret, volume.path(".buildpools-damaged")).unwrap();
    symlink(&secret, volume.path(".buildpools-healed")).unwrap();
    std::fs::remove_dir_all(volume.path("root")).unwrap();
    symlink(outside.path(), volume.path("root")).unwrap();
    for _ in 0..3 {
        volume.run(DAMAGED, 1);
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "1\n2\n3\n");
    assert!(!is_link(&volume.path("root")), "the daemon's files are on its volume");
    assert!(!is_link(&volume.path(".buildpools-healed")));
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().unwrap().is_symlink()
}

#[test]
fn what_was_left_by_an_interrupted_reset_is_removed_before_the_daemon_starts() {
    let volume = Volume::new();
    std::fs::create_dir_all(volume.path("root.damaged/deep")).unwrap();
    volume.run("", 0);
    assert!(!volume.path("root.damaged").exists() && volume.has_cache());
}

#[test]
fn a_stop_reaches_the_daemon_and_its_code_is_told() {
    stopped(&Volume::new(), "");
}

#[test]
fn a_stop_reaches_the_daemon_after_the_cache_was_emptied_too() {
    let volume = Volume::new();
    for _ in 0..2 {
        volume.run(DAMAGED, 1);
    }
    let healed = volume.path(".buildpools-healed");
    let damaged = format!("if [ ! -e {} ]; then echo '{DAMAGED}' >&2; exit 1; fi; ", healed.display());
    stopped(&volume, &damaged);
    assert!(healed.exists() && !volume.has_cache());
}

/// Runs a daemon that does this first, and stops it once it is ready.
fn stopped(volume: &Volume, first: &str) {
    let program = format!("{first}trap 'echo stopping >&2; exit 3' TERM; echo ready >&2; while :; do sleep 0.1; done");
    let mut entry = Command::new("sh");
    entry.arg(SCRIPT).arg(volume.0.path()).args(["sh", "-c", &program]).stderr(Stdio::piped());
    let mut entry = entry.spawn().unwrap();
    let mut said = std::io::BufReader::new(entry.stderr.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 0, "it has ended");
    }
    let pid = entry.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "stopping\n");
    let limit = SystemTime::now() + Duration::from_secs(30);
    let status = entry.wait().unwrap();
    assert!(status.code() == Some(3) && SystemTime::now() < limit, "{status}");
}

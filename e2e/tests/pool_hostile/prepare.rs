//! What the attacks need in registry and git server.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use buildpools_e2e::cluster::{Layout, layout, registry, tools};
use buildpools_e2e::fixtures::git;
use buildpools_e2e::harness::Tenant;
use tokio::sync::OnceCell;

use super::poison;

/// What the frontend must say it can, so that the built-in one hands the build over.
const CAPS: &str = "moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs";

/// Makes it, once.
pub async fn once(tenant: &Tenant) -> anyhow::Result<()> {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    PREPARED
        .get_or_try_init(async || {
            let work = tenant.environment.cluster.dir.join("data/hostile");
            images(tenant, &work)?;
            repositories(tenant, &work).await
        })
        .await?;
    Ok(())
}

fn images(tenant: &Tenant, work: &Path) -> anyhow::Result<()> {
    let cluster = &tenant.environment.cluster;
    let layout = Layout::new(&cluster.name)?;
    let source = layout::repository().join("e2e/hostile/image");
    let stage = |name: &str| -> anyhow::Result<PathBuf> {
        let root = work.join(name);
        for directory in ["bin", "lib"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        Ok(root)
    };
    let attacker = stage("attacker")?;
    let program = attacker.join("bin/attack");
    tools::output(Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&program).arg(source.join("attack.c")))?;
    std::fs::copy(source.join("hunt.sh"), attacker.join("lib/hunt.sh"))?;
    let preload = attacker.join("lib/evil.so");
    tools::output(Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(preload).arg(source.join("evil.c")))?;
    let frontend = stage("frontend")?;
    std::fs::copy(cluster.tool("hostile-frontend"), frontend.join("bin/hostile-frontend"))?;

    let image = |name: &str| format!("{}/{name}", cluster.registry);
    for (root, name) in [(&attacker, "library/attacker:stable"), (&frontend, "library/hostile-frontend:stable")] {
        let layer = root.with_extension("tar");
        tools::output(
            Command::new("tar")
                .args(["--owner=0", "--group=0", "-cf"])
                .arg(&layer)
                .arg("-C")
                .arg(root)
                .args(["bin", "lib"]),
        )?;
        let mut append = registry::crane(&layout, cluster)?;
        append.args(["append", "--base", &image("library/busybox:stable"), "--new_tag", &image(name), "--new_layer"]);
        tools::output(append.arg(&layer))?;
    }
    let mut entry = registry::crane(&layout, cluster)?;
    let name = image("library/hostile-frontend:stable");
    tools::output(entry.args([
        "mutate",
        &name,
        "--entrypoint",
        "/bin/hostile-frontend",
        "--label",
        CAPS,
        "--tag",
        &name,
    ]))?;
    poison::push(&layout, cluster, work, "real", "library/poisoned-cache:stable")?;
    // Another tenant's.
    poison::push(&layout, cluster, work, "theirs", "bob/cache:1")?;
    let mut copy = registry::crane(&layout, cluster)?;
    tools::output(copy.args(["copy", &image("library/busybox:stable"), &image("bob/private:1")]))?;
    Ok(())
}

async fn repositories(tenant: &Tenant, work: &Path) -> anyhow::Result<()> {
    let cluster = &tenant.environment.cluster;
    let links = [
        ("file", "content"),
        ("link:up", "../../../../../../../../../.."),
        ("link:above", "../../../../../../../../../../tmp"),
        ("link:canary", "../../../../../../../../../../tmp/daemon-canary"),
        ("link:absolute", "/tmp/daemon-canary"),
        ("link:proc", "/proc/self/root"),
    ];
    git::publish(&cluster.git_root, "hostile/links.git", &links, "main").await?;
    // BuildKit fetches the modules of a repository, from where that says.
    let modules = [
        ("file", "file:///tmp/daemon-repository"),
        ("program", "ext::touch /tmp/evil-submodule"),
        ("option", "--upload-pack=touch /tmp/evil-option"),
    ];
    for (name, url) in modules {
        let settings = format!("[submodule \"module\"]\n\tpath = module\n\turl = {url}\n");
        let commit = "0123456789012345678901234567890123456789";
        let files = [(".gitmodules", settings.as_str()), ("module:module", commit)];
        git::publish(&cluster.git_root, &format!("hostile/submodule-{name}.git"), &files, "main").await?;
    }
    let names = work.join("names");
    std::fs::create_dir_all(names.join("d"))?;
    std::fs::write(names.join("d/file"), "evil")?;
    let link = names.join("link");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink("/", &link)?;
    // Into one archive, under another name than it has.
    let archive = |name: &str, entries: &[(&str, &str)]| -> anyhow::Result<Vec<u8>> {
        let path = work.join(name);
        for (number, (file, transform)) in entries.iter().enumerate() {
            let mut tar = Command::new("tar");
            tar.args(["--absolute-names", "--transform", transform, if number == 0 { "-c" } else { "-r" }, "-f"]);
            tools::output(tar.arg(&path).arg("-C").arg(&names).arg(file))?;
        }
        Ok(std::fs::read(path)?)
    };
    let paths = [
        ("d/file", "s,^d/file,../../../../../../../../tmp/evil-above,"),
        ("d/file", "s,^d/file,/home/user/evil-absolute,"),
    ];
    let through = [("link", "s,^x,x,"), ("d/file", "s,^d/file,link/tmp/evil-through,")];
    let files = [("evil.tar", archive("evil.tar", &paths)?), ("links.tar", archive("links.tar", &through)?)];
    git::publish(&cluster.git_root, "hostile/archive.git", &files, "main").await?;
    Ok(())
}

/// The files of an image, one after the other.
pub fn content(tenant: &Tenant, image: &str) -> anyhow::Result<String> {
    let cluster = &tenant.environment.cluster;
    let mut export = registry::crane(&Layout::new(&cluster.name)?, cluster)?;
    let content = tools::output(export.arg("export").arg(format!("{}/{image}", cluster.registry)).arg("-"))?;
    ensure!(content.contains("hunt.sh"), "{image} is not made from the attacker's");
    Ok(content)
}

//! A build cache that gives for one build the result of another.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use buildpools_e2e::cluster::builder::{Builder, digest};
use buildpools_e2e::cluster::{ClusterInfo, Layout, registry};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Pushes it: the key of the frontend's `definition <text>` with the layer of `definition poisoned`.
pub fn push(layout: &Layout, cluster: &ClusterInfo, work: &Path, text: &str, name: &str) -> anyhow::Result<()> {
    let builder = Builder::start(layout)?;
    let cache = |text: &str| -> anyhow::Result<PathBuf> {
        let definition = work.join(format!("{text}.llb"));
        let mut print = Command::new(cluster.tool("hostile-frontend"));
        let status = print.args(["definition", text]).stdout(File::create(&definition)?).status()?;
        ensure!(status.success(), "{print:?}: {status}");
        let result = work.join(text);
        if result.exists() {
            fs::remove_dir_all(&result)?;
        }
        builder.cache(&definition, &result)?;
        Ok(result)
    };
    let (honest, poisoned) = (cache(text)?, cache("poisoned")?);
    let mut manifest = read(&poisoned, &digest(&poisoned)?)?;
    let mut config = read(&poisoned, name_of(&manifest["config"]["digest"])?)?;
    let theirs = read(&honest, &digest(&honest)?)?;
    let mut key = read(&honest, name_of(&theirs["config"]["digest"])?)?;
    last_step(&mut config)?["digest"] = last_step(&mut key)?["digest"].take();
    write(&poisoned, &config, &mut manifest["config"])?;
    let index = poisoned.join("index.json");
    let mut all: Value = serde_json::from_slice(&fs::read(&index)?)?;
    write(&poisoned, &manifest, &mut all["manifests"][0])?;
    fs::write(index, all.to_string())?;
    registry::push(layout, cluster, &poisoned, name)
}

/// What a configuration says of the step that has inputs.
fn last_step(config: &mut Value) -> anyhow::Result<&mut Value> {
    let records = config["records"].as_array_mut().context("records")?;
    records.iter_mut().find(|record| record["inputs"].is_array()).context("a record with inputs")
}

fn name_of(value: &Value) -> anyhow::Result<&str> {
    value.as_str().context("a digest")
}

fn read(layout: &Path, digest: &str) -> anyhow::Result<Value> {
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    Ok(serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?)?)
}

/// Writes it as a blob, and into its descriptor which one.
fn write(layout: &Path, value: &Value, descriptor: &mut Value) -> anyhow::Result<()> {
    let bytes = value.to_string();
    let digest = format!("{:x}", Sha256::digest(&bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), &bytes)?;
    descriptor["digest"] = format!("sha256:{digest}").into();
    descriptor["size"] = bytes.len().into();
    Ok(())
}

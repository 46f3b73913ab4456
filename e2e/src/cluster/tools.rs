//! The programs of the cluster: `e2e/tools/build` makes them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::layout::{Layout, repository};

/// Builds the tools that are not in the cache.
pub fn build(layout: &Layout) -> Result<()> {
    let script = repository().join("e2e/tools/build");
    let status = Command::new("bash")
        .arg(&script)
        .env("BUILDPOOLS_CACHE", &layout.cache)
        .status()
        .with_context(|| format!("bash {}", script.display()))?;
    ensure!(status.success(), "the tools could not be built, see above");
    Ok(())
}

/// Where a tool's program really is. The path holds a hash of all that the program was built from.
pub fn resolve(layout: &Layout, program: &str) -> Result<PathBuf> {
    let link = layout.tool(program);
    link.canonicalize().with_context(|| format!("{} (run `bash e2e/tools/build`)", link.display()))
}

/// Runs a command to its end and returns its standard output; the error holds what it printed on standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| name.clone())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

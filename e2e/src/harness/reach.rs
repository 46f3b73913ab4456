//! Whether a connection can be opened from somewhere in the cluster.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;

use super::{Tenant, wait};

/// What became of an attempt to open a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Somebody answered.
    Open,
    /// The way is free, but nobody listens there.
    Closed,
    /// A NetworkPolicy stands in the way.
    Blocked,
    /// No answer at all.
    Silent,
    /// There is no way, whatever policies say.
    NoRoute,
    /// The host name is not known.
    Unknown,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A shell function for images with busybox: `reach NAME HOST PORT` prints `reach NAME: open` or whatever it was. The
/// node refuses what a policy forbids with "administratively prohibited", which is "no route to host" here.
pub const BUSYBOX: &str = r#"reach() {
  said=$(timeout 6 nc -w 3 "$2" "$3" -e true 2>&1 </dev/null); code=$?
  case "$code$said" in
    0*) echo "reach $1: open" ;;
    143) echo "reach $1: silent" ;;
    *"No route to host"*|*"Permission denied"*) echo "reach $1: blocked" ;;
    *"onnection refused"*) echo "reach $1: closed" ;;
    *"imed out"*) echo "reach $1: silent" ;;
    *"unreachable"*) echo "reach $1: noroute" ;;
    *"bad address"*) echo "reach $1: unknown" ;;
    *) echo "reach $1: $said" ;;
  esac
}
"#;

/// The same for images with bash.
pub const BASH: &str = r#"reach() {
  said=$(timeout 4 bash -c "exec 3<>/dev/tcp/$2/$3" 2>&1); code=$?
  case "$code$said" in
    0*) echo "reach $1: open" ;;
    124*) echo "reach $1: silent" ;;
    *"No route to host"*|*"Permission denied"*) echo "reach $1: blocked" ;;
    *"onnection refused"*) echo "reach $1: closed" ;;
    *"unreachable"*) echo "reach $1: noroute" ;;
    *"not known"*|*"resolution"*|*"No address"*) echo "reach $1: unknown" ;;
    *) echo "reach $1: $said" ;;
  esac
}
"#;

/// A target: a name for it, host, port.
pub type Target = (String, String, u16);

/// A script that tries all targets at once.
pub fn script(function: &str, targets: &[Target]) -> String {
    let calls: Vec<_> =
        targets.iter().map(|(name, host, port)| format!("reach '{name}' '{host}' {port} &\n")).collect();
    format!("{function}{}wait\n", calls.concat())
}

/// What a script printed, by name of the target. Other lines are left out.
///
/// # Errors
/// When a result is none that is known.
pub fn results(text: &str) -> anyhow::Result<BTreeMap<String, Reach>> {
    let lines = text.lines().filter_map(|line| line.split("reach ").nth(1)?.split_once(": "));
    lines
        .map(|(name, result)| {
            let reach = match result.trim() {
                "open" => Reach::Open,
                "closed" => Reach::Closed,
                "blocked" => Reach::Blocked,
                "silent" => Reach::Silent,
                "noroute" => Reach::NoRoute,
                "unknown" => Reach::Unknown,
                other => anyhow::bail!("{name}: {other:?} is no result that is known"),
            };
            Ok((name.to_owned(), reach))
        })
        .collect()
}

impl Tenant {
    /// Tries targets from a container.
    ///
    /// # Errors
    /// When the container cannot run the script, or a target has no result.
    pub async fn reach(
        &self,
        (pod, container, function): (&str, &str, &str),
        targets: &[Target],
    ) -> anyhow::Result<BTreeMap<String, Reach>> {
        let said = self.exec(pod, container, &["sh", "-c", &script(function, targets)]).await?;
        let found = results(&said)?;
        let missing = targets.iter().find(|(name, ..)| !found.contains_key(name));
        anyhow::ensure!(missing.is_none(), "no result for {missing:?}: {said}");
        Ok(found)
    }

    /// Tries targets from a container until all results are as expected: a policy takes a moment to be loaded.
    ///
    /// # Errors
    /// When they do not become so.
    pub async fn reaches(&self, from: (&str, &str, &str), expected: &[(Target, Reach)]) -> anyhow::Result<()> {
        let targets: Vec<Target> = expected.iter().map(|(target, _)| target.clone()).collect();
        let mut last = BTreeMap::new();
        let done = wait::poll("connections are as expected", wait::SOON, async || {
            last = self.reach(from, &targets).await?;
            Ok(expected.iter().all(|((name, ..), reach)| last.get(name) == Some(reach)).then_some(()))
        })
        .await;
        done.with_context(|| format!("from {}/{}: expected {expected:?}, found {last:?}", self.namespace, from.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_a_log() {
        let log = "[app] reach node: blocked\nreach a.b: open\nnothing\n[x] #5 0.1 reach c: noroute\n";
        let found = results(log).unwrap();
        let list: Vec<_> = found.iter().map(|(name, reach)| format!("{name} {reach}")).collect();
        assert_eq!(list, ["a.b open", "c noroute", "node blocked"]);
        assert!(results("reach x: nc: broken").is_err());
    }
}

//! The network plugin that makes a new pod wait until its rules are loaded. It comes after the one that gives the pod its
//! address (<https://www.cni.dev/docs/spec/>).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How long a pod waits. Then the kubelet tries again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the enforcer listens
    #[arg(long)]
    pub socket: PathBuf,
}

/// What the enforcer is asked; one line of JSON. It answers with a line when it is done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// What happens.
    pub verb: Verb,
    /// The sandbox's ID.
    pub sandbox: String,
    /// The pod's UID.
    pub pod: String,
    /// The pod's address.
    pub address: Option<Ipv4Addr>,
}

/// What happens to a pod's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// It is made.
    Add,
    /// It is removed.
    Delete,
}

/// Does what `CNI_COMMAND` says.
///
/// # Errors
/// When the enforcer does not answer: then there is no pod.
pub fn run(options: &Options) -> Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let config: Value = serde_json::from_str(&input).context("the network's configuration")?;
    let result = config["prevResult"].clone();
    let arguments = variable("CNI_ARGS");
    let arguments: BTreeMap<&str, &str> = arguments.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let request = |verb, address| Request {
        verb,
        sandbox: variable("CNI_CONTAINERID"),
        pod: arguments.get("K8S_POD_UID").copied().unwrap_or_default().to_owned(),
        address,
    };
    match variable("CNI_COMMAND").as_str() {
        "VERSION" => println!("{}", json!({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})),
        "ADD" => {
            let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()?.parse().ok());
            ask(options, &request(Verb::Add, Some(address.context("the pod has no IPv4 address")?)))?;
            println!("{result}");
        }
        // Best effort, as the specification wants it: the pod goes in any case.
        "DEL" => drop(ask(options, &request(Verb::Delete, None))),
        _ => {}
    }
    Ok(())
}

fn ask(options: &Options, request: &Request) -> Result<()> {
    let mut stream = UnixStream::connect(&options.socket).context("NetworkPolicies are not enforced")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the pod's rules are not loaded")?;
    ensure!(answer == "done\n", "the pod's rules are not loaded");
    Ok(())
}

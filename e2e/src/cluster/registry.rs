//! Registry, token server and git server, as node processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;

use super::info::ClusterInfo;
use super::layout::{Layout, REGISTRY_PORT, TOKEN_PORT};
use super::process::{self, Process, wait_until};
use super::{node, tools};
use crate::fixtures::{git, registry, token};

/// User of the token server who may push everywhere.
const ADMIN: &str = "admin";
/// Users of the repositories below `/private` of the git server.
const GIT_PREFIX: &str = "/private";

/// Starts the three and waits until they answer.
pub async fn start(layout: &Layout, info: &ClusterInfo) -> Result<Vec<Process>> {
    let everywhere = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let (certificate, key) = (layout.pki("servers.crt"), layout.pki("servers.key"));
    let login = token::Config::demo(&info.registry);
    login.write(&info.token_config)?;
    let users: Vec<_> = info.users.iter().map(|(user, password)| (user.as_str(), password.as_str())).collect();
    git::write_htpasswd(&info.git_htpasswd, &users)?;
    fs::create_dir_all(&info.git_root)?;
    let signing = layout.dir.join("pki/tokens");
    token::signing::ensure(&signing)?;

    let config = layout.config("registry.yaml");
    let settings = registry::Settings {
        listen: everywhere(REGISTRY_PORT),
        storage: info.registry_storage.clone(),
        tls_cert: certificate.clone(),
        tls_key: key.clone(),
        realm: info.token_url.clone(),
        service: login.service,
        issuer: login.issuer,
        signing_cert: token::signing::certificate_path(&signing),
    };
    fs::write(&config, registry::config(&settings)?)?;

    let fixtures = node::target_directory().join("fixtures");
    let tls = [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let token = [
        "token".to_owned(),
        format!("--listen={}", everywhere(TOKEN_PORT)),
        format!("--config={}", info.token_config.display()),
        format!("--signing-dir={}", signing.display()),
    ];
    let git = [
        "git".to_owned(),
        format!("--listen={}", everywhere(443)),
        format!("--root={}", info.git_root.display()),
        format!("--state-dir={}", layout.data("git-server").display()),
        format!("--protect={GIT_PREFIX}={}", info.git_htpasswd.display()),
    ];
    let registry = [Path::new("serve"), config.as_path()];
    let processes = vec![
        process::start(layout, "token", &fixtures, token.iter().chain(&tls))?,
        process::start(layout, "git", &fixtures, git.iter().chain(&tls))?,
        process::start(layout, "registry", &layout.tool("registry"), registry)?,
    ];
    for (process, port) in processes.iter().zip([TOKEN_PORT, 443, REGISTRY_PORT]) {
        let answers = async || Ok(TcpStream::connect((info.node_ip, port)).await.is_ok());
        wait_until(&process.name, Duration::from_secs(20), &[process], answers).await?;
    }
    Ok(processes)
}

/// Pushes an OCI layout directory to the registry, as the administrator.
pub fn push(layout: &Layout, info: &ClusterInfo, image: &Path, name: &str) -> Result<()> {
    tools::output(crane(layout, info)?.arg("push").arg(image).arg(format!("{}/{name}", info.registry))).map(drop)
}

/// crane on the node, where the registry's name resolves, as the administrator.
pub fn crane(layout: &Layout, info: &ClusterInfo) -> Result<Command> {
    let password = info.users.get(ADMIN).context("the token server has an administrator")?;
    let docker_config = layout.config("crane");
    fs::create_dir_all(&docker_config)?;
    let auths = serde_json::json!({"auths": {&info.registry: {"username": ADMIN, "password": password}}});
    fs::write(docker_config.join("config.json"), auths.to_string())?;
    let mut crane = node::command(layout, layout.tool("crane"))?;
    crane.env("DOCKER_CONFIG", docker_config).env("SSL_CERT_FILE", &info.ca);
    Ok(crane)
}

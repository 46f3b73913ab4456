//! Keys and certificates, and the kubeconfigs that hold them.
//!
//! There are two authorities: the test CA of registry and git server, one for a cache because the BuildKit image trusts
//! it, and a CA of its own for each Kubernetes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::Layout;
use super::layout::{API_PORT, Addresses, GIT_HOST, REGISTRY_HOST};

/// Who talks to the API server, with the names that RBAC's and the node authorizer's defaults know.
const CLIENTS: [(&str, &str, Option<&str>); 8] = [
    ("admin", "admin", Some("system:masters")),
    ("kube-controller-manager", "system:kube-controller-manager", None),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("coredns", "system:coredns", None),
    ("network-policy", "system:network-policy", None),
    ("local-path-provisioner", "system:local-path-provisioner", None),
    // The API server to the kubelet, not the other way round.
    ("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
];

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Reads the authority from its two files, or makes it.
    fn ensure(name: &str, certificate_path: &Path, key_path: &Path) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        if !(certificate_path.exists() && key_path.exists()) {
            let key = KeyPair::generate()?;
            let certificate = parameters.self_signed(&key)?;
            write_secret(key_path, &key.serialize_pem())?;
            fs::write(certificate_path, certificate.pem())?;
        }
        let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
        let certificate = read(certificate_path)?;
        let key = KeyPair::from_pem(&read(key_path)?)?;
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// A certificate for a server with these names and addresses.
    fn server(&self, name: &str, alternatives: Vec<String>) -> Result<(String, String)> {
        let mut parameters = CertificateParams::new(alternatives)?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
    }

    /// A certificate for a client of the API server.
    fn client(&self, user: &str, group: Option<&str>) -> Result<(String, String)> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
    }

    /// Certificate and key, PEM.
    fn sign(&self, mut parameters: CertificateParams) -> Result<(String, String)> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| path.display().to_string())
}

/// Makes the test CA unless it is there.
pub fn ensure_test_ca(layout: &Layout) -> Result<()> {
    test_ca(layout).map(drop)
}

fn test_ca(layout: &Layout) -> Result<Authority> {
    let _lock = layout.lock("ca")?;
    fs::create_dir_all(layout.cache.join("ca"))?;
    Authority::ensure("buildpools test CA", &layout.ca_cert(), &layout.ca_key())
}

/// Makes all keys, certificates and kubeconfigs of the cluster.
pub fn create(layout: &Layout, addresses: &Addresses) -> Result<()> {
    let node = addresses.node.to_string();
    let names = [REGISTRY_HOST, GIT_HOST, &node, "127.0.0.1"].map(str::to_owned);
    put(layout, "servers", test_ca(layout)?.server(REGISTRY_HOST, names.into())?)?;

    let node_user = format!("system:node:{}", layout.name);
    let kubelet = ("kubelet", node_user.as_str(), Some("system:nodes"));
    let server = format!("https://{node}:{API_PORT}");
    kubernetes(layout, &server, &[&node, &addresses.api_service.to_string()], CLIENTS.into_iter().chain([kubelet]))
}

/// Makes what an API server needs: its CA, its certificate (for `names` beside the usual ones), the key that signs the
/// tokens of service accounts; and for each client (file, user, group) a certificate and a kubeconfig for `server`.
pub fn kubernetes<'a>(
    layout: &Layout,
    server: &str,
    names: &[&str],
    clients: impl IntoIterator<Item = (&'a str, &'a str, Option<&'a str>)>,
) -> Result<()> {
    let authority = Authority::ensure("kubernetes", &layout.pki("ca.crt"), &layout.pki("ca.key"))?;
    let usual = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
    ];
    let names = usual.iter().chain(names).map(|name| (*name).to_owned()).collect();
    put(layout, "apiserver", authority.server("kube-apiserver", names)?)?;
    for (file, user, group) in clients {
        let pair = authority.client(user, group)?;
        let text = kubeconfig(&layout.name, server, &authority.certificate, &pair);
        put(layout, file, pair)?;
        let path = if file == "admin" { layout.kubeconfig() } else { kubeconfig_path(layout, file) };
        write_secret(&path, &text)?;
    }

    let key = KeyPair::generate()?;
    write_secret(&layout.pki("service-accounts.key"), &key.serialize_pem())?;
    fs::write(layout.pki("service-accounts.pub"), key.public_key_pem())?;
    Ok(())
}

fn put(layout: &Layout, name: &str, (certificate, key): (String, String)) -> Result<()> {
    fs::write(layout.pki(&format!("{name}.crt")), certificate)?;
    write_secret(&layout.pki(&format!("{name}.key")), &key)
}

/// The kubeconfig of a component.
pub fn kubeconfig_path(layout: &Layout, component: &str) -> std::path::PathBuf {
    layout.config(&format!("{component}.kubeconfig"))
}

/// JSON, which is YAML too.
fn kubeconfig(name: &str, server: &str, ca: &str, (certificate, key): &(String, String)) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": BASE64_STANDARD.encode(ca),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": BASE64_STANDARD.encode(certificate),
            "client-key-data": BASE64_STANDARD.encode(key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    })
    .to_string()
}

//! Which certificates a registry's token server is believed with, and the HTTP clients that go with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::credentials::{Warning, canonical_host};

/// How long a connection to a token server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole token request may take: BuildKit's own client gives up after about a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects that are followed, all within one host: another host must not see what was meant for this one.
const REDIRECTS: usize = 5;

/// Root certificates for the token servers of registries: the system's, and extra ones for single registries.
/// HTTP clients are made when first needed and kept, so one `Trust` should serve many builds; make a new one when a
/// certificate file changes.
#[derive(Debug, Default)]
pub struct Trust {
    extra: BTreeMap<String, Vec<CertificateDer<'static>>>,
    system: OnceLock<Vec<CertificateDer<'static>>>,
    /// By registry host; the empty name is the client of every host without certificates of its own.
    clients: Mutex<BTreeMap<String, reqwest::Client>>,
}

impl Trust {
    /// Adds root certificates (PEM, one or more) for a registry, `host` or `host:port`.
    pub fn add_host(&mut self, host: &str, pem: &[u8]) -> Result<(), Warning> {
        let warning = |problem: &str| Warning {
            source: "registry certificate".to_owned(),
            host: Some(host.to_owned()),
            problem: problem.to_owned(),
        };
        let mut certificates = Vec::new();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| warning("not valid PEM"))?;
            roots.add(certificate.clone()).map_err(|_| warning("not a certificate that can be a root"))?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            return Err(warning("holds no PEM certificate"));
        }
        self.extra.entry(canonical_host(host)).or_default().extend(certificates);
        self.clients.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// The client that asks the token server of a registry.
    pub(crate) fn client(&self, registry: &str) -> Result<reqwest::Client, reqwest::Error> {
        let host = canonical_host(registry);
        let key = if self.extra.contains_key(&host) { host } else { String::new() };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.make_client(&key)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn make_client(&self, host: &str) -> Result<reqwest::Client, reqwest::Error> {
        let mut roots = rustls::RootCertStore::empty();
        // Without system certificates (a minimal image) the extra ones still work; a server that needs the missing
        // ones fails with an error of its own.
        let system = self.system.get_or_init(|| rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(system.iter().cloned());
        roots.add_parsable_certificates(self.extra.get(host).into_iter().flatten().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut builder = reqwest::Client::builder();
        // Ring serves both protocol versions, so this always holds; otherwise reqwest reports what it misses.
        if let Ok(tls) = tls {
            let tls = tls.with_root_certificates(roots).with_no_client_auth();
            builder = builder.tls_backend_preconfigured(tls);
        }
        builder
            .user_agent(concat!("buildpools/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::custom(|attempt| {
                let same_origin = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
                if same_origin && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
            }))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_certificate() {
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, problem) in [
            ("", "holds no PEM certificate"),
            ("hello", "holds no PEM certificate"),
            (garbled, "not a certificate that can be a root"),
            ("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", "not valid PEM"),
        ] {
            let warning = Trust::default().add_host("r.test", pem.as_bytes()).unwrap_err();
            assert_eq!((warning.host.as_deref(), warning.problem.as_str()), (Some("r.test"), problem), "{pem}");
        }
    }

    #[test]
    fn clients_are_kept() {
        let trust = Trust::default();
        trust.client("a.test").unwrap();
        trust.client("b.test").unwrap();
        assert_eq!(trust.clients.lock().unwrap().len(), 1);
    }
}

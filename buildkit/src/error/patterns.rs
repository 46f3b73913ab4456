//! BuildKit's error texts. Most of its errors have no type, so that looking at their words cannot be avoided; this is
//! the only place that does.

use super::{ErrorKind, ImageRepository};

/// What a text says, before anything is known about credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Kind(ErrorKind),
    /// A registry refused; whether for want of a credential is not in the text.
    RegistryRefused,
    /// The network, or a server's error; whose is not in the text.
    Network,
}

use ErrorKind as E;
use Meaning::{Kind, Network, RegistryRefused};

/// Tried in order; all words of an entry must occur, in any case. Sources: the texts in `tests` below, which real
/// daemons gave, and the code of BuildKit, containerd and git.
const PATTERNS: &[(&[&str], Meaning)] = &[
    (&["no space left on device"], Kind(E::DiskFull)),
    (&["disk quota exceeded"], Kind(E::DiskFull)),
    (&["cannot allocate memory"], Kind(E::OutOfMemory)),
    (&["x509:"], Kind(E::CertificateUntrusted)),
    (&["certificate signed by unknown authority"], Kind(E::CertificateUntrusted)),
    (&["server certificate verification failed"], Kind(E::CertificateUntrusted)),
    (&["ssl certificate problem"], Kind(E::CertificateUntrusted)),
    (&["toomanyrequests"], Kind(E::RegistryRateLimited)),
    (&["429 too many requests"], Kind(E::RegistryRateLimited)),
    (&["pushing with mount from"], Kind(E::CrossRepositoryMountDenied)),
    (&["mount=", "from=", "40"], Kind(E::CrossRepositoryMountDenied)),
    // The Dockerfile.
    (&["dockerfile parse error"], Kind(E::DockerfileInvalid)),
    (&["failed to read dockerfile", "no such file or directory"], Kind(E::ContextNotFound)),
    (&["target stage", "could not be found"], Kind(E::DockerfileInvalid)),
    (&["unknown instruction"], Kind(E::DockerfileInvalid)),
    (&["no build stage in current context"], Kind(E::DockerfileInvalid)),
    (&["invalid reference format"], Kind(E::DockerfileInvalid)),
    (&["failed to parse stage name"], Kind(E::DockerfileInvalid)),
    (&["the dockerfile cannot be empty"], Kind(E::DockerfileInvalid)),
    (&["file with no instructions"], Kind(E::DockerfileInvalid)),
    (&["secret ", ": not found"], Kind(E::DockerfileInvalid)),
    // A file that COPY or ADD names.
    (&["failed to calculate checksum of ref", "not found"], Kind(E::ContextNotFound)),
    (&["failed to compute cache key", "not found"], Kind(E::ContextNotFound)),
    // Git.
    (&["authentication failed for"], Kind(E::ContextAccessDenied)),
    (&["could not read username"], Kind(E::ContextAccessDenied)),
    (&["could not read password"], Kind(E::ContextAccessDenied)),
    (&["terminal prompts disabled"], Kind(E::ContextAccessDenied)),
    (&["permission denied (publickey"], Kind(E::ContextAccessDenied)),
    (&["the requested url returned error: 403"], Kind(E::ContextAccessDenied)),
    (&["the requested url returned error: 401"], Kind(E::ContextAccessDenied)),
    (&["the requested url returned error: 404"], Kind(E::ContextNotFound)),
    (&["fatal: repository", "not found"], Kind(E::ContextNotFound)),
    (&["couldn't find remote ref"], Kind(E::ContextNotFound)),
    (&["repository does not contain ref"], Kind(E::ContextNotFound)),
    (&["reference is not a tree"], Kind(E::ContextNotFound)),
    (&["git", "subdir", "not found"], Kind(E::ContextNotFound)),
    (&["git stderr", "access denied or repository not exported"], Kind(E::ContextAccessDenied)),
    (&["git", "unable to access"], Kind(E::ContextFetchFailed)),
    (&["git", "could not resolve host"], Kind(E::ContextFetchFailed)),
    (&["git", "early eof"], Kind(E::ContextFetchFailed)),
    (&["git stderr"], Kind(E::ContextFetchFailed)),
    (&["failed to fetch remote", "git"], Kind(E::ContextFetchFailed)),
    // Contexts and files by HTTP.
    (&["invalid response status 401"], Kind(E::ContextAccessDenied)),
    (&["invalid response status 403"], Kind(E::ContextAccessDenied)),
    (&["invalid response status 404"], Kind(E::ContextNotFound)),
    (&["invalid response status 410"], Kind(E::ContextNotFound)),
    (&["invalid response status"], Kind(E::ContextFetchFailed)),
    // Registries.
    (&["insufficient_scope"], RegistryRefused),
    (&["authorization failed"], RegistryRefused),
    (&["access denied"], RegistryRefused),
    (&["failed to authorize"], RegistryRefused),
    (&["failed to fetch oauth token"], RegistryRefused),
    (&["failed to fetch anonymous token"], RegistryRefused),
    (&["no basic auth credentials"], RegistryRefused),
    (&["failed to find supported auth scheme"], RegistryRefused),
    (&["401 unauthorized"], RegistryRefused),
    (&["403 forbidden"], RegistryRefused),
    (&["unauthorized:"], RegistryRefused),
    (&["failed to push", "denied"], RegistryRefused),
    (&["failed to push", "unsupported:"], RegistryRefused),
    (&["failed to resolve source metadata", "denied"], RegistryRefused),
    (&["failed to resolve source metadata", "not found"], Kind(E::ImageNotFound)),
    (&["failed to push", "name unknown"], Kind(E::ImageNotFound)),
    (&["manifest unknown"], Kind(E::ImageNotFound)),
    // The network, and servers that fail.
    (&["server gave http response to https client"], Network),
    (&["no such host"], Network),
    (&["connection refused"], Network),
    (&["connection reset"], Network),
    (&["network is unreachable"], Network),
    (&["no route to host"], Network),
    (&["i/o timeout"], Network),
    (&["tls handshake"], Network),
    (&["remote error: tls"], Network),
    (&["dial tcp"], Network),
    (&["unexpected eof"], Network),
    (&["500 internal server error"], Network),
    (&["502 bad gateway"], Network),
    (&["503 service unavailable"], Network),
    (&["504 gateway timeout"], Network),
    (&["unexpected status", " 50"], Network),
];

pub(super) fn meaning(text: &str) -> Option<Meaning> {
    let text = text.to_lowercase();
    PATTERNS.iter().find(|(words, _)| words.iter().all(|word| text.contains(word))).map(|(_, meaning)| *meaning)
}

/// The exit code in `process "…" did not complete successfully: exit code: 7`, for errors without details.
pub(super) fn exit_code(text: &str) -> Option<i32> {
    let (_, rest) = text.rsplit_once("did not complete successfully: exit code: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// Whether a push was refused in a way that the request to mount a foreign layer can have caused.
pub(super) fn may_be_mount(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("failed to push")
        && !text.contains("insufficient_scope")
        && (text.contains("denied") || text.contains("unsupported") || text.contains("forbidden"))
}

/// The repository that a text is about.
pub(super) fn image(text: &str) -> Option<ImageRepository> {
    for before in
        ["failed to push ", "failed to resolve source metadata for ", "failed to copy: httpReadSeeker: failed open: "]
    {
        if let Some((_, rest)) = text.rsplit_once(before) {
            let reference = rest.split([' ', '"', ',']).next().unwrap_or_default().trim_end_matches(':');
            if let Some(image) = parse_reference(reference) {
                return Some(image);
            }
        }
    }
    from_url(text)
}

/// `https://r.test:5000/v2/team-a/app/manifests/1`
fn from_url(text: &str) -> Option<ImageRepository> {
    let (before, after) = text.split_once("/v2/")?;
    let (_, registry) = before.rsplit_once("://")?;
    let path = after.split(['"', ' ', '?']).next()?;
    let end = ["/manifests/", "/blobs/", "/tags/"].iter().filter_map(|part| path.find(part)).min()?;
    Some(ImageRepository { registry: canonical(registry), repository: path[..end].to_owned() })
}

/// Splits an image name as docker does: the first part is a host only if it looks like one.
pub(super) fn parse_reference(reference: &str) -> Option<ImageRepository> {
    let reference = reference.split('@').next()?;
    let name = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    match name.split_once('/') {
        Some((host, repository)) if host.contains(['.', ':']) || host == "localhost" => {
            Some(ImageRepository { registry: canonical(host), repository: repository.to_owned() })
        }
        Some(_) => Some(ImageRepository { registry: "docker.io".to_owned(), repository: name.to_owned() }),
        None => Some(ImageRepository { registry: "docker.io".to_owned(), repository: format!("library/{name}") }),
    }
}

fn canonical(host: &str) -> String {
    crate::credentials::canonical_host(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for (reference, expected) in [
            ("r.test:5000/team-a/app:1.2", Some(("r.test:5000", "team-a/app"))),
            ("r.test:5000/team-a/app", Some(("r.test:5000", "team-a/app"))),
            ("r.test/app@sha256:abc", Some(("r.test", "app"))),
            ("localhost/app", Some(("localhost", "app"))),
            ("alpine:3", Some(("docker.io", "library/alpine"))),
            ("docker.io/library/alpine:3", Some(("docker.io", "library/alpine"))),
            ("team/app", Some(("docker.io", "team/app"))),
            ("", None),
        ] {
            let found = parse_reference(reference);
            let found = found.as_ref().map(|image| (image.registry.as_str(), image.repository.as_str()));
            assert_eq!(found, expected, "{reference}");
        }
    }

    #[test]
    fn images_in_texts() {
        for (text, expected) in [
            ("failed to push r.test:5000/a/b:1: denied: nope", Some("r.test:5000/a/b")),
            ("x: failed to resolve source metadata for r.test/base:1: r.test/base:1: not found", Some("r.test/base")),
            (
                "failed to do request: Head \"https://r.test:5000/v2/a/b/manifests/1\": dial tcp",
                Some("r.test:5000/a/b"),
            ),
            ("nothing here", None),
        ] {
            assert_eq!(image(text).map(|image| image.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn exit_codes() {
        let text = "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7";
        assert_eq!(exit_code(text), Some(7));
        assert_eq!(exit_code("exit code: 7"), None);
    }
}

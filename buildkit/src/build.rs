//! What to build, and the request that says so to the daemon.

use std::collections::{BTreeMap, HashMap};

use bollard_buildkit_proto::moby::buildkit::v1::{CacheOptions, Exporter, SolveRequest};

use crate::llb;

/// The path of the Dockerfile when it is given inline.
const INLINE_DOCKERFILE: &str = "Dockerfile";
/// The most that a request can hold; the daemon accepts messages of 16 MiB.
const MAX_INLINE_BYTES: usize = 15 << 20;

/// A build of one image from a Dockerfile.
#[derive(Clone, Debug)]
pub struct Build {
    /// The Ref, the build's name in the daemon. A Ref must not be used twice: the daemon refuses one that is active,
    /// and builds again under one that has been finished for ten seconds.
    pub reference: String,
    /// Where files come from.
    pub context: Context,
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// The stage to build; the last one by default.
    pub target: Option<String>,
    /// Values for `ARG`. They are visible in the image's history and in the daemon's.
    pub build_args: BTreeMap<String, String>,
    /// What becomes of the result; without it, nothing is kept but the cache.
    pub output: Option<Output>,
}

/// Where a build's files come from.
#[derive(Clone, Debug)]
pub enum Context {
    /// A git repository that the daemon fetches.
    Git {
        /// The repository's address, such as `https://git.example.com/team-a/app.git`.
        url: String,
        /// A branch, tag or commit; the repository's default branch without it.
        reference: Option<String>,
        /// A directory in the repository.
        subdir: Option<String>,
    },
    /// Files by relative path. Missing directories are made. All together at most 15 MiB.
    Inline(BTreeMap<String, Vec<u8>>),
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug)]
pub enum Dockerfile {
    /// A path in the context.
    Path(String),
    /// The text itself.
    Inline(String),
}

/// An image as a build's result.
#[derive(Clone, Debug)]
pub struct Output {
    /// Full names with registry and, usually, tag: `registry.example.com/team-a/app:1.2`.
    pub names: Vec<String>,
    /// Whether to push the image under these names.
    pub push: bool,
}

/// A finished build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildResult {
    /// The image's digest, `sha256:…`; none without an output.
    pub digest: Option<String>,
}

impl BuildResult {
    pub(crate) fn from_exporter_response(response: &HashMap<String, String>) -> Self {
        Self { digest: response.get("containerimage.digest").cloned() }
    }
}

impl Build {
    /// The request; or what about the context's paths or size cannot be. The session comes later.
    pub(crate) fn request(&self) -> Result<SolveRequest, String> {
        let mut options: HashMap<String, String> = HashMap::new();
        let mut inputs = HashMap::new();
        match (&self.context, &self.dockerfile) {
            (Context::Git { url, reference, subdir }, dockerfile) => {
                let reference = reference.as_deref().filter(|reference| !reference.is_empty());
                let subdir =
                    subdir.as_deref().map(|subdir| subdir.trim_matches('/')).filter(|subdir| !subdir.is_empty());
                let context = git_context(url, reference, subdir);
                let by_path = matches!(dockerfile, Dockerfile::Path(_));
                if by_path && is_git_address(url) {
                    options.insert("context".to_owned(), context);
                } else {
                    // The frontend takes other addresses for a download, and a Dockerfile of its own only beside a
                    // context that is an input too.
                    let source = llb::git(&format!("[internal] load git source {context}"), url, reference, subdir);
                    if by_path {
                        inputs.insert("dockerfile".to_owned(), source.clone());
                    }
                    inputs.insert("context".to_owned(), source);
                }
            }
            (Context::Inline(files), _) => {
                let files = clean(files)?;
                let files = files.iter().map(|(path, data)| (path.as_str(), *data));
                let tree = llb::files("[internal] load build context", files);
                if matches!(self.dockerfile, Dockerfile::Path(_)) {
                    inputs.insert("dockerfile".to_owned(), tree.clone());
                }
                inputs.insert("context".to_owned(), tree);
            }
        }
        match &self.dockerfile {
            Dockerfile::Path(path) => {
                let Some(path) = llb::clean_path(path) else {
                    return Err(format!("the Dockerfile's path {path:?} must be relative and lie in the context"));
                };
                options.insert("filename".to_owned(), path);
            }
            Dockerfile::Inline(text) => {
                let file = [(INLINE_DOCKERFILE, text.as_bytes())];
                inputs.insert(
                    "dockerfile".to_owned(),
                    llb::files("[internal] load build definition from Dockerfile", file),
                );
            }
        }
        if let Some(target) = &self.target {
            options.insert("target".to_owned(), target.clone());
        }
        options.extend(self.build_args.iter().map(|(name, value)| (format!("build-arg:{name}"), value.clone())));
        Ok(SolveRequest {
            r#ref: self.reference.clone(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: options,
            frontend_inputs: inputs,
            exporters: self.output.iter().map(exporter).collect(),
            cache: Some(CacheOptions::default()),
            ..SolveRequest::default()
        })
    }
}

/// Cleans the paths of an inline context and checks its size.
fn clean(files: &BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, &[u8]>, String> {
    let size: usize = files.values().map(Vec::len).sum();
    if size > MAX_INLINE_BYTES {
        return Err(format!(
            "the inline context holds {size} bytes, more than the {MAX_INLINE_BYTES} that fit; use git"
        ));
    }
    let clean = |path: &String| {
        let wrong = || format!("the inline context's path {path:?} must be relative and lie in the context");
        llb::clean_path(path).ok_or_else(wrong)
    };
    files.iter().map(|(path, data)| Ok((clean(path)?, data.as_slice()))).collect()
}

/// Whether the Dockerfile frontend takes an address for a git repository: over http(s) only with `.git` at the end.
fn is_git_address(url: &str) -> bool {
    let is_http = url.starts_with("https://") || url.starts_with("http://");
    !is_http || std::path::Path::new(url).extension().is_some_and(|extension| extension == "git")
}

/// `<url>#<ref>:<subdir>`, the form that the Dockerfile frontend understands.
fn git_context(url: &str, reference: Option<&str>, subdir: Option<&str>) -> String {
    let mut context = url.to_owned();
    if reference.is_some() || subdir.is_some() {
        context.push('#');
        context.push_str(reference.unwrap_or_default());
        if let Some(subdir) = subdir {
            context.push(':');
            context.push_str(subdir);
        }
    }
    context
}

fn exporter(output: &Output) -> Exporter {
    let mut attrs = HashMap::from([("name".to_owned(), output.names.join(","))]);
    if output.push {
        attrs.insert("push".to_owned(), "true".to_owned());
    }
    Exporter { r#type: "image".to_owned(), attrs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(context: Context, dockerfile: Dockerfile) -> Build {
        Build { reference: "ref".into(), context, dockerfile, target: None, build_args: BTreeMap::new(), output: None }
    }

    fn git() -> Context {
        Context::Git {
            url: "https://git.test/app.git".into(),
            reference: Some("main".into()),
            subdir: Some("web".into()),
        }
    }

    fn inline(path: &str) -> Context {
        Context::Inline([(path.to_owned(), b"FROM scratch".to_vec())].into())
    }

    fn inputs(request: &SolveRequest) -> Vec<&str> {
        let mut names: Vec<&str> = request.frontend_inputs.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn everything_of_a_build_is_in_the_request() {
        let build = Build {
            target: Some("release".into()),
            build_args: [("VERSION".to_owned(), "1".to_owned())].into(),
            output: Some(Output { names: vec!["r.test/a:1".into(), "r.test/a:2".into()], push: true }),
            ..build(git(), Dockerfile::Path("docker/Dockerfile".into()))
        };
        let request = build.request().unwrap();
        let option = |key: &str| request.frontend_attrs[key].as_str();
        assert_eq!(request.r#ref, "ref");
        assert_eq!(option("context"), "https://git.test/app.git#main:web");
        assert_eq!(option("filename"), "docker/Dockerfile");
        assert_eq!((option("target"), option("build-arg:VERSION")), ("release", "1"));
        assert_eq!(request.frontend_attrs.len(), 4);
        assert_eq!(inputs(&request), Vec::<&str>::new());
        let attrs: BTreeMap<_, _> = request.exporters[0].attrs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(attrs, [("name", "r.test/a:1,r.test/a:2"), ("push", "true")].into());
        assert!(!request.internal, "the history is needed to account for builds of a lost runner");
    }

    #[test]
    fn context_and_dockerfile_combine() {
        for (context, dockerfile, expected_inputs, has_context_option) in [
            (git(), Dockerfile::Path("Dockerfile".into()), vec![], true),
            (git(), Dockerfile::Inline("FROM scratch".into()), vec!["context", "dockerfile"], false),
            (
                Context::Git { url: "https://git.test/app".into(), reference: None, subdir: None },
                Dockerfile::Path("Dockerfile".into()),
                vec!["context", "dockerfile"],
                false,
            ),
            (inline("Dockerfile"), Dockerfile::Path("Dockerfile".into()), vec!["context", "dockerfile"], false),
            (inline("a/b.txt"), Dockerfile::Inline("FROM scratch".into()), vec!["context", "dockerfile"], false),
        ] {
            let request = build(context, dockerfile).request().unwrap();
            assert_eq!(inputs(&request), expected_inputs);
            assert_eq!(request.frontend_attrs.contains_key("context"), has_context_option);
        }
    }

    #[test]
    fn git_contexts() {
        for (url, reference, subdir, expected) in [
            ("https://git.test/app.git", None, None, "https://git.test/app.git"),
            ("https://git.test/app.git", Some("v1"), None, "https://git.test/app.git#v1"),
            ("https://git.test/app.git", None, Some("web"), "https://git.test/app.git#:web"),
            ("git@git.test:app", Some("v1"), Some("web"), "git@git.test:app#v1:web"),
        ] {
            assert_eq!(git_context(url, reference, subdir), expected);
            assert!(is_git_address(url));
        }
        assert!(!is_git_address("https://git.test/app"));
    }

    #[test]
    fn refuses_paths_outside_the_context() {
        for (context, dockerfile) in [
            (inline("../Dockerfile"), Dockerfile::Path("Dockerfile".into())),
            (inline("/Dockerfile"), Dockerfile::Path("Dockerfile".into())),
            (inline("Dockerfile"), Dockerfile::Path("../Dockerfile".into())),
            (git(), Dockerfile::Path("/Dockerfile".into())),
            (
                Context::Inline([("a".to_owned(), vec![0; MAX_INLINE_BYTES + 1])].into()),
                Dockerfile::Path("Dockerfile".into()),
            ),
        ] {
            let error = build(context, dockerfile).request().unwrap_err();
            assert!(error.contains("must be relative") || error.contains("use git"), "{error}");
        }
    }
}

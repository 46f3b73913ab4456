//! What a build's cache is found by: builds with the same key are of the same project and go to the same member.

use buildpools_crds::v1alpha1::BuildJobSpec;

use super::schedule::placement::stable_hash;

/// The key's hash: of `spec.cacheKey`, else of repository, path, Dockerfile and target. Revision, build arguments and
/// the image's name are not in it: they change from build to build of the same project.
pub fn of(spec: &BuildJobSpec) -> u64 {
    if let Some(key) = &spec.cache_key {
        return stable_hash(&format!("key\0{key}"));
    }
    let path = spec.dockerfile.path.as_deref().unwrap_or("Dockerfile");
    let inline = spec.context.inline.as_ref();
    let file = || inline?.files.iter().find(|file| file.path == path).map(|file| file.content.as_str());
    let dockerfile = spec.dockerfile.inline.as_deref().or_else(file);
    let git = spec.context.git.as_ref();
    let parts = [
        git.map_or(String::new(), |git| repository(&git.url)),
        git.and_then(|git| git.path.as_deref()).unwrap_or_default().trim_matches('/').to_owned(),
        dockerfile.unwrap_or(path).to_owned(),
        spec.target.clone().unwrap_or_default(),
    ];
    stable_hash(&parts.join("\0"))
}

/// Host and path of a repository: the same however the URL is spelt.
fn repository(url: &str) -> String {
    let url = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(&host);
    let path = path.trim_matches('/');
    format!("{host}/{}", path.strip_suffix(".git").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(change: impl FnOnce(&mut Value)) -> u64 {
        let mut spec = json!({
            "context": {"git": {"url": "https://git.example.com/team/app.git", "ref": "main", "path": "web"}},
            "target": "release",
        });
        change(&mut spec);
        of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn builds_of_one_project_have_one_key() {
        let same = key(|_| {});
        for (field, value) in [
            ("/context/git/url", json!("HTTPS://Git.Example.com:443/team/app.git/")),
            ("/context/git/url", json!("http://git.example.com/team/app")),
            ("/context/git/ref", json!("v2")),
            ("/context/git/path", json!("/web/")),
            ("/args", json!({"VERSION": "2"})),
            ("/output", json!({"image": {"names": ["a.example.com/b:c"]}})),
            ("/priority", json!(7)),
            ("/dockerfile", json!({"path": "Dockerfile"})),
        ] {
            assert_eq!(key(|spec| set(spec, field, &value)), same, "{field} {value}");
        }
        for (field, value) in [
            ("/context/git/url", json!("https://git.example.com/team/App.git")),
            ("/context/git/url", json!("https://git.example.com:8443/team/app.git")),
            ("/context/git/path", json!("api")),
            ("/target", json!("test")),
            ("/dockerfile", json!({"path": "Dockerfile.arm"})),
            ("/dockerfile", json!({"inline": "FROM scratch"})),
            ("/cacheKey", json!("app")),
        ] {
            assert_ne!(key(|spec| set(spec, field, &value)), same, "{field} {value}");
        }
    }

    #[test]
    fn files_that_are_given_in_the_job_are_known_by_their_dockerfile() {
        let inline = |dockerfile: &str, other: &str| {
            key(|spec| {
                spec["context"] = json!({"inline": {"files": [
                    {"path": "main.c", "content": other}, {"path": "Dockerfile", "content": dockerfile},
                ]}});
            })
        };
        assert_eq!(inline("FROM a", "1"), inline("FROM a", "2"));
        assert_ne!(inline("FROM a", "1"), inline("FROM b", "1"));
    }

    #[test]
    fn a_key_that_is_given_stands_alone() {
        let given = |target: &str| {
            key(|spec| {
                spec["cacheKey"] = json!("monorepo");
                spec["target"] = json!(target);
            })
        };
        assert_eq!(given("a"), given("b"));
    }

    fn set(spec: &mut Value, pointer: &str, value: &Value) {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[field] = value.clone();
    }
}

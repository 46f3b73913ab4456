//! LLB, the daemon's build graph, for what a Dockerfile build takes as input without files of the client: small trees
//! of files, and a git repository.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb::{
    Definition, FileAction, FileActionMkDir, FileActionMkFile, FileOp, Input, Op, OpMetadata, SourceOp, file_action, op,
};
use prost::Message;
use sha2::{Digest, Sha256};

/// A tree of files on nothing: one file operation with an action per directory and file. Paths are relative and
/// clean (see [`clean_path`]).
pub(crate) fn files<'a>(name: &str, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Definition {
    let files: BTreeMap<&str, &[u8]> = files.into_iter().collect();
    let directories: BTreeSet<&str> = files.keys().flat_map(|path| parents(path)).collect();
    let mut actions: Vec<file_action::Action> = Vec::new();
    // Ordered, so that a directory comes before what lies in it.
    for directory in directories {
        actions.push(file_action::Action::Mkdir(FileActionMkDir {
            path: format!("/{directory}"),
            mode: 0o755,
            make_parents: false,
            owner: None,
            timestamp: -1,
        }));
    }
    for (path, data) in files {
        actions.push(file_action::Action::Mkfile(FileActionMkFile {
            path: format!("/{path}"),
            mode: 0o644,
            data: data.to_vec(),
            owner: None,
            timestamp: -1,
        }));
    }
    if actions.is_empty() {
        // An operation needs an action; the root directory exists anyway.
        actions.push(file_action::Action::Mkdir(FileActionMkDir {
            path: "/".to_owned(),
            mode: 0o755,
            make_parents: true,
            owner: None,
            timestamp: -1,
        }));
    }
    let last = actions.len() - 1;
    let actions = actions.into_iter().enumerate().map(|(index, action)| FileAction {
        // Each action works on the result of the one before it; the first on nothing (-1).
        input: i64::try_from(index).unwrap_or(i64::MAX) - 1,
        secondary_input: -1,
        output: if index == last { 0 } else { -1 },
        action: Some(action),
    });
    definition(op::Op::File(FileOp { actions: actions.collect() }), name, &["file.base"])
}

/// A git repository, as the Dockerfile frontend itself would ask for it.
pub(crate) fn git(name: &str, url: &str, reference: Option<&str>, subdir: Option<&str>) -> Definition {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let mut identifier = format!("git://{place}");
    if reference.is_some() || subdir.is_some() {
        identifier.push('#');
        identifier.push_str(reference.unwrap_or_default());
        if let Some(subdir) = subdir {
            identifier.push(':');
            identifier.push_str(subdir);
        }
    }
    let attrs =
        [("git.fullurl", url), ("git.authheadersecret", "GIT_AUTH_HEADER"), ("git.authtokensecret", "GIT_AUTH_TOKEN")];
    let attrs = attrs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    definition(op::Op::Source(SourceOp { identifier, attrs }), name, &["source.git", "source.git.fullurl"])
}

/// An operation and the terminal one that names it as the result.
fn definition(op: op::Op, name: &str, capabilities: &[&str]) -> Definition {
    let operation = Op { op: Some(op), ..Op::default() }.encode_to_vec();
    let digest = digest(&operation);
    let terminal = Op { inputs: vec![Input { digest: digest.clone(), index: 0 }], ..Op::default() }.encode_to_vec();
    let metadata = OpMetadata {
        caps: capabilities.iter().map(|capability| ((*capability).to_owned(), true)).collect(),
        description: [("llb.customname".to_owned(), name.to_owned())].into(),
        ..OpMetadata::default()
    };
    Definition {
        metadata: [(digest, metadata), (self::digest(&terminal), OpMetadata::default())].into(),
        def: vec![operation, terminal],
        source: None,
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `a` and `a/b` of `a/b/c`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(index, _)| &path[..index])
}

/// The path without `.` and doubled slashes; none when it is empty, absolute, or leaves the tree.
pub(crate) fn clean_path(path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty() && !parts.contains(&"..") && !path.ends_with('/')).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(definition: &Definition) -> op::Op {
        assert_eq!(definition.def.len(), 2);
        let terminal = Op::decode(&definition.def[1][..]).unwrap();
        assert_eq!(terminal.inputs, [Input { digest: digest(&definition.def[0]), index: 0 }]);
        assert!(terminal.op.is_none());
        for def in &definition.def {
            assert!(definition.metadata.contains_key(&digest(def)));
        }
        Op::decode(&definition.def[0][..]).unwrap().op.unwrap()
    }

    fn actions(definition: &Definition) -> Vec<(String, i64, i64)> {
        let op::Op::File(FileOp { actions }) = decode(definition) else { panic!("a file operation") };
        let path = |action: file_action::Action| match action {
            file_action::Action::Mkdir(mkdir) => format!("{}/", mkdir.path),
            file_action::Action::Mkfile(mkfile) => mkfile.path,
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(|action| (path(action.action.unwrap()), action.input, action.output)).collect()
    }

    #[test]
    fn makes_directories_before_files_and_each_once() {
        let tree = files("tree", [("b/c/d.txt", b"1".as_slice()), ("a.txt", b"2"), ("b/e.txt", b"3")]);
        let expected =
            [("/b/", -1, -1), ("/b/c/", 0, -1), ("/a.txt", 1, -1), ("/b/c/d.txt", 2, -1), ("/b/e.txt", 3, 0)];
        assert_eq!(actions(&tree), expected.map(|(path, input, output)| (path.to_owned(), input, output)));
        let metadata = &tree.metadata[&digest(&tree.def[0])];
        assert_eq!(metadata.caps, [("file.base".to_owned(), true)].into());
        assert_eq!(metadata.description["llb.customname"], "tree");
    }

    #[test]
    fn an_empty_tree_is_still_an_operation() {
        assert_eq!(actions(&files("tree", [])), [("//".to_owned(), -1, 0)]);
    }

    #[test]
    fn equal_trees_have_equal_digests() {
        let one = files("tree", [("a", b"1".as_slice()), ("b", b"2")]);
        let two = files("tree", [("b", b"2".as_slice()), ("a", b"1")]);
        assert_eq!(one, two);
    }

    #[test]
    fn git_sources() {
        for (url, reference, subdir, identifier) in [
            ("https://git.test/a.git", None, None, "git://git.test/a.git"),
            ("https://git.test:8443/a.git", Some("main"), None, "git://git.test:8443/a.git#main"),
            ("https://u:p@git.test/a.git", Some("v1"), Some("app"), "git://git.test/a.git#v1:app"),
            ("https://git.test/a.git", None, Some("app"), "git://git.test/a.git#:app"),
        ] {
            let op::Op::Source(source) = decode(&git("context", url, reference, subdir)) else { panic!("a source") };
            assert_eq!((source.identifier.as_str(), source.attrs["git.fullurl"].as_str()), (identifier, url));
        }
    }

    #[test]
    fn paths() {
        for (path, clean) in [
            ("Dockerfile", Some("Dockerfile")),
            ("./a//b", Some("a/b")),
            ("a/./b", Some("a/b")),
            ("", None),
            (".", None),
            ("/etc/passwd", None),
            ("../a", None),
            ("a/../b", None),
            ("a/", None),
            ("a\0b", None),
        ] {
            assert_eq!(clean_path(path).as_deref(), clean, "{path:?}");
        }
    }
}

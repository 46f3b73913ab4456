use super::*;

fn parse(json: &str) -> (Credentials, Vec<String>) {
    let mut credentials = Credentials::default();
    let warnings = credentials.add_docker_config("secret x", json.as_bytes());
    (credentials, warnings.iter().map(ToString::to_string).collect())
}

fn password(user: &str, password: &str) -> Login {
    Login::Password { user: user.to_owned(), password: SecretText::new(password) }
}

#[test]
fn forms_of_an_entry() {
    // base64: alice:pw  YWxpY2U6cHc=   alice:pw\0\0  YWxpY2U6cHcAAA==   a:b:c  YTpiOmM=   alice:  YWxpY2U6
    for (entry, expected) in [
        (r#"{"auth":"YWxpY2U6cHc="}"#, Ok(password("alice", "pw"))),
        (r#"{"auth":"YWxpY2U6cHc"}"#, Ok(password("alice", "pw"))),
        (r#"{"auth":"YWxpY2U6cHcAAA=="}"#, Ok(password("alice", "pw"))),
        (r#"{"auth":"YTpiOmM="}"#, Ok(password("a", "b:c"))),
        (r#"{"auth":"YWxpY2U6cHc=","username":"bob","password":"other"}"#, Ok(password("alice", "pw"))),
        (r#"{"username":"bob","password":"pw","email":"x"}"#, Ok(password("bob", "pw"))),
        (r#"{"auth":"","username":"bob","password":"pw"}"#, Ok(password("bob", "pw"))),
        (r#"{"auth":"YWxpY2U6","identitytoken":"tok"}"#, Ok(Login::Identity(SecretText::new("tok")))),
        (r#"{"auth":"YWxpY2U6cHc=","registrytoken":"tok"}"#, Ok(Login::Bearer(SecretText::new("tok")))),
        (r#"{"auth":"%%%"}"#, Err("\"auth\" is not base64; it must be base64 of user:password")),
        (r#"{"auth":"YWxpY2U="}"#, Err("\"auth\" has no colon; it must be base64 of user:password")),
        (r#"{"auth":"OnB3"}"#, Err("\"auth\" has an empty user")),
        (r#"{"auth":"YWxpY2U6"}"#, Err("\"auth\" has an empty password")),
        (r#"{"auth":7}"#, Err("\"auth\" is not a string")),
        (r#"{"username":"bob"}"#, Err("has a username but no password")),
        (r#"{"password":"pw"}"#, Err("has a password but no username")),
        ("{}", Err("holds no credential")),
        (r#""YWxpY2U6cHc=""#, Err("is not an object")),
    ] {
        assert_eq!(login(&serde_json::from_str(entry).unwrap()), expected, "{entry}");
    }
}

#[test]
fn forms_of_a_key() {
    for (key, expected) in [
        ("registry.test", Ok(("registry.test", ""))),
        ("Registry.Test:5000", Ok(("registry.test:5000", ""))),
        ("https://registry.test", Ok(("registry.test", ""))),
        ("http://registry.test:5000/", Ok(("registry.test:5000", ""))),
        ("https://registry.test/v2/", Ok(("registry.test", ""))),
        ("https://registry.test/v2", Ok(("registry.test", ""))),
        ("registry.test/v2/team-a", Ok(("registry.test", "team-a"))),
        ("registry.test/v2", Ok(("registry.test", "v2"))),
        ("registry.test/team-a/", Ok(("registry.test", "team-a"))),
        ("https://registry.test/team-a/app", Ok(("registry.test", "team-a/app"))),
        ("https://index.docker.io/v1/", Ok(("docker.io", ""))),
        ("index.docker.io", Ok(("docker.io", ""))),
        ("registry-1.docker.io", Ok(("docker.io", ""))),
        ("docker.io/team-a", Ok(("docker.io", "team-a"))),
        ("", Err("names no host")),
        ("https:///x", Err("names no host")),
        ("*.registry.test", Err("wildcards are not supported; name the host")),
        ("a@registry.test", Err("is not a host with an optional path")),
    ] {
        let expected = expected.map(|(host, path)| (host.to_owned(), path.to_owned()));
        assert_eq!(split_key(key), expected, "{key}");
    }
}

#[test]
fn the_longest_path_prefix_wins_in_any_order() {
    const ENTRIES: [&str; 4] = [
        r#""r.test":{"username":"host","password":"pw1"}"#,
        r#""r.test/team-a":{"username":"team","password":"pw2"}"#,
        r#""r.test/team-a/app":{"username":"app","password":"pw3"}"#,
        r#""https://index.docker.io/v1/":{"username":"hub","password":"pw4"}"#,
    ];
    for rotation in 0..ENTRIES.len() {
        let mut entries = ENTRIES;
        entries.rotate_left(rotation);
        let (credentials, warnings) = parse(&format!(r#"{{"auths":{{{}}}}}"#, entries.join(",")));
        assert_eq!(warnings, Vec::<String>::new());
        for (host, repository, user) in [
            ("r.test", "other/app", Some("host")),
            ("r.test", "team-a", Some("team")),
            ("r.test", "team-a/other", Some("team")),
            ("r.test", "team-ab/app", Some("host")),
            ("r.test", "team-a/app", Some("app")),
            ("r.test", "team-a/app/sub", Some("app")),
            ("r.test", "team-a/app2", Some("team")),
            ("R.Test", "team-a/app2", Some("team")),
            ("r.test:5000", "team-a/app", None),
            ("registry-1.docker.io", "library/alpine", Some("hub")),
            ("docker.io", "library/alpine", Some("hub")),
        ] {
            let found = credentials.find(host, repository).and_then(|entry| entry.login.user());
            assert_eq!(found, user, "{host}/{repository}");
        }
    }
}

#[test]
fn one_credential_per_host_or_a_clear_no() {
    let (credentials, _) = parse(
        r#"{"auths":{"two.test/a":{"username":"a","password":"pw1"},"two.test/b":{"username":"b","password":"pw2"},
            "same.test/a":{"username":"a","password":"pw1"},"same.test/b":{"username":"a","password":"pw1"},
            "one.test":{"username":"one","password":"pw1"}}}"#,
    );
    assert_eq!(credentials.only("two.test").unwrap_err().paths, ["a", "b"]);
    for (host, user) in [("same.test", Some("a")), ("one.test", Some("one")), ("none.test", None)] {
        let only = credentials.only(host).unwrap();
        assert_eq!(only.and_then(|entry| entry.login.user()), user, "{host}");
    }
}

#[test]
fn a_bad_entry_spoils_nothing_and_shows_no_secret() {
    let (credentials, warnings) = parse(
        r#"{"auths":{"bad.test":{"auth":"c2VjcmV0LXZhbHVl"},"good.test":{"auth":"YWxpY2U6c2VjcmV0LXZhbHVl"},
            "worse.test":[],"https://good.test/v1/":{"username":"bob","password":"secret-value"}},
            "credsStore":"desktop","credHelpers":{}}"#,
    );
    let entries: Vec<_> = credentials.entries().collect();
    assert_eq!(entries, [CredentialInfo { host: "good.test", path: "", source: "secret x" }]);
    assert_eq!(
        warnings,
        [
            "secret x, entry bad.test: \"auth\" has no colon; it must be base64 of user:password",
            "secret x, entry https://good.test/v1/: ignored: secret x has another credential for the same place",
            "secret x, entry worse.test: is not an object",
            "secret x: \"credsStore\" is ignored: credential helpers cannot run here",
        ],
    );
    assert!(!format!("{credentials:?}").contains("secret-value"));
    assert!(credentials.secret_values().contains(&"secret-value".to_owned()));
    assert!(credentials.secret_values().contains(&"YWxpY2U6c2VjcmV0LXZhbHVl".to_owned()));
}

#[test]
fn files_that_are_no_configuration() {
    for (json, expected) in [
        (r#"{"auths":{"r.test":{"auth":"YWxpY2U6cHc="}"#, "secret x: not valid JSON (line 1, column 42)"),
        ("", "secret x: not valid JSON (line 1, column 0)"),
        (r#"{"r.test":{}}"#, "secret x: has no \"auths\" object; the legacy dockercfg form is not read"),
        (r#"{"auths":[]}"#, "secret x: \"auths\" is not an object"),
    ] {
        let (credentials, warnings) = parse(json);
        assert!(credentials.is_empty());
        assert_eq!(warnings, [expected]);
    }
    let (credentials, warnings) = parse("\u{feff}{\"auths\":{\"r.test\":{\"auth\":\"YWxpY2U6cHc=\"}}}");
    assert_eq!((credentials.entries().count(), warnings.len()), (1, 0), "a byte order mark is no error");
}

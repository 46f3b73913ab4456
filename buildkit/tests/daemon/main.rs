//! The client against a real buildkitd and a real registry. `make tools` builds both.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod support;

use buildpools_buildkit::*;
use support::*;

#[tokio::test]
async fn explore() {
    let registry = Registry::open().await;
    let buildkitd = Buildkitd::start(&[&registry]).await;
    println!("{:?}", buildkitd.daemon.info().await);
    println!("{:?}", buildkitd.daemon.workers().await);
    let t = std::time::Instant::now();
    let mut build = with_shell("RUN echo hello && echo world");
    build.output = pushed(registry.image("team-a/base:1"));
    println!("{:?}", buildkitd.daemon.build(&build, &Access::default(), |e| println!("{e}")).await);
    println!("{:?}", t.elapsed());
    println!("{:?}", buildkitd.daemon.history(&build.reference).await);
    let mut v = vec![];
    for i in 0..20 {
        let t = std::time::Instant::now();
        build.reference = format!("x{i}");
        buildkitd.daemon.build(&build, &Access::default(), |_| ()).await.unwrap();
        v.push(t.elapsed());
    }
    println!("{v:?}");
    let base = format!("FROM {}\n", registry.image("team-a/base:1"));
    let closed = free_port();
    for (name, dockerfile) in [
        ("exit7", format!("{base}RUN echo one\nRUN echo two; echo three >&2; exit 7")),
        ("137", format!("{base}RUN sh -c 'exit 137'")),
        ("missing", format!("{base}COPY nothere /x")),
        ("parse", format!("{base}RUNN x")),
        ("parse2", "RUN x".to_owned()),
        ("parse3", "".to_owned()),
        ("nobase", format!("FROM {}", registry.image("no/such:1"))),
        ("notag", format!("FROM {}", registry.image("team-a/base:2"))),
        ("noreg", format!("FROM 127.0.0.1:{closed}/a/b:1")),
        ("nohost", "FROM nosuch.invalid/a/b:1".to_owned()),
        ("badref", "FROM UPPER/x:::1".to_owned()),
        ("stage", "FROM nosuchstage".to_owned()),
        ("add404", format!("FROM scratch\nADD http://{}/nothing /x", registry.host)),
        ("addconn", format!("FROM scratch\nADD http://127.0.0.1:{closed}/nothing /x")),
        ("secret", format!("{base}RUN --mount=type=secret,id=npm,required=true cat /run/secrets/npm")),
    ] {
        let build = inline(&dockerfile, &[]);
        println!("---- {name}\n{:#?}", buildkitd.daemon.build(&build, &Access::default(), |e| println!("{e}")).await);
    }
    let mut build = inline("FROM scratch\nCOPY <<EOF /x\nx\nEOF\n", &[]);
    build.target = Some("nope".into());
    println!("---- target\n{:#?}", buildkitd.daemon.build(&build, &Access::default(), |e| println!("{e}")).await);
    build.target = None;
    build.reference = "pushref".into();
    build.output = pushed(format!("127.0.0.1:{closed}/a/b:1"));
    println!("---- push\n{:#?}", buildkitd.daemon.build(&build, &Access::default(), |e| println!("{e}")).await);
    println!("---- again\n{:#?}", buildkitd.daemon.build(&build, &Access::default(), |e| println!("{e}")).await);
}

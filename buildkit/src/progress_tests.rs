use bollard_buildkit_proto::moby::buildkit::v1::VertexWarning;

use super::*;

#[allow(clippy::unnecessary_wraps)] // as the fields want it
fn at(seconds: i64, milliseconds: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: milliseconds * 1_000_000 })
}

fn vertex(digest: &str, name: &str) -> Vertex {
    Vertex { digest: digest.into(), name: name.into(), ..Vertex::default() }
}

fn log(digest: &str, milliseconds: i32, msg: &str) -> VertexLog {
    VertexLog { vertex: digest.into(), timestamp: at(0, milliseconds), stream: 1, msg: msg.into() }
}

fn lines(progress: &mut Progress, messages: Vec<StatusResponse>) -> Vec<String> {
    let mut lines = Vec::new();
    for message in messages {
        progress.update(message, &mut |event| lines.push(event.to_string()));
    }
    lines
}

fn vertexes(vertexes: Vec<Vertex>) -> StatusResponse {
    StatusResponse { vertexes, ..StatusResponse::default() }
}

fn logs(logs: Vec<VertexLog>) -> StatusResponse {
    StatusResponse { logs, ..StatusResponse::default() }
}

#[test]
fn a_build_as_plain_lines() {
    let mut progress = Progress::new(Scrubber::new(["hunter2"]));
    let load = Vertex { started: at(0, 0), ..vertex("a", "[internal] load") };
    let run = Vertex { started: at(0, 0), ..vertex("b", "[2/3] RUN make") };
    let copied = Vertex { started: at(0, 0), completed: at(0, 0), cached: true, ..vertex("c", "[3/3] COPY") };
    let messages = vec![
        // Steps are announced before they start; numbers follow the start.
        vertexes(vec![vertex("b", "[2/3] RUN make"), load.clone()]),
        vertexes(vec![Vertex { completed: at(0, 310), ..load.clone() }, run.clone()]),
        logs(vec![log("b", 123, "one\ntw"), log("b", 200, "o\r\npassword hunter2\n10%\r50%\r100%\nlast")]),
        StatusResponse {
            warnings: vec![VertexWarning { vertex: "b".into(), short: b"old".to_vec(), ..Default::default() }],
            // The last line and the end in one message.
            vertexes: vec![Vertex { completed: at(2, 0), error: "exit code: 7".into(), ..run }],
            logs: vec![log("b", 300, " line\nrest")],
            ..StatusResponse::default()
        },
        // Loaded again in no time: not worth a line. And in a while.
        vertexes(vec![Vertex { started: at(3, 0), completed: at(3, 1), ..load.clone() }]),
        vertexes(vec![Vertex { started: at(4, 0), completed: at(5, 0), ..load }]),
        vertexes(vec![copied]),
        vertexes(vec![Vertex {
            started: at(0, 0),
            completed: at(0, 0),
            error: "x: context canceled".into(),
            ..vertex("d", "push")
        }]),
    ];
    let expected = [
        "#1 [internal] load",
        "#2 [2/3] RUN make",
        "#1 DONE 0.3s",
        "#2 0.123 one",
        "#2 0.200 two",
        "#2 0.200 password [secret]",
        "#2 0.200 100%",
        "#2 0.300 last line",
        "#2 WARN: old",
        "#2 2.000 rest",
        "#2 ERROR: exit code: 7",
        "#1 DONE 1.0s",
        "#3 [3/3] COPY",
        "#3 CACHED",
        "#4 push",
        "#4 CANCELED",
    ];
    assert_eq!(lines(&mut progress, messages), expected);
    assert_eq!(progress.step_name("b"), Some("[2/3] RUN make"));
    assert_eq!(progress.tail("b"), ["one", "two", "password [secret]", "100%", "last line", "rest"]);
    assert_eq!(progress.failed_step("process x: exit code: 7"), Some("b"));
    assert_eq!(progress.failed_step("something else"), None);
}

#[test]
fn a_failure_after_success_is_shown() {
    let mut progress = Progress::default();
    let push = Vertex { started: at(0, 0), completed: at(0, 1), ..vertex("a", "exporting") };
    let failed = Vertex { error: "denied".into(), ..push.clone() };
    let messages = vec![vertexes(vec![push]), vertexes(vec![failed.clone()]), vertexes(vec![failed])];
    assert_eq!(lines(&mut progress, messages), ["#1 exporting", "#1 DONE 0.0s", "#1 ERROR: denied"]);
}

#[test]
fn the_tail_is_bounded() {
    let mut progress = Progress::default();
    let started = vertexes(vec![Vertex { started: at(0, 0), ..vertex("a", "RUN") }]);
    let text = (0..100).map(|line| format!("line {line}")).collect::<Vec<_>>().join("\n") + "\n";
    let long = "ä".repeat(MAX_LINE_BYTES);
    let shown = lines(&mut progress, vec![started, logs(vec![log("a", 0, &text), log("a", 0, &long)])]);
    assert_eq!(shown.len(), 102, "a line without an end is shown when it is too long to wait for");
    let tail = progress.tail("a");
    assert_eq!((tail.len(), tail[0].as_str()), (TAIL_LINES, "line 81"));
    assert!(tail[19].len() < TAIL_LINE_BYTES + 8, "{}", tail[19].len());
}

#[test]
fn the_two_streams_do_not_mix() {
    let mut progress = Progress::default();
    let error = |msg: &str| VertexLog { stream: 2, ..log("a", 0, msg) };
    let messages = vec![
        vertexes(vec![Vertex { started: at(0, 0), ..vertex("a", "RUN") }]),
        logs(vec![log("a", 0, "o"), error("e"), log("a", 0, "ut\n"), error("rr\n")]),
    ];
    assert_eq!(lines(&mut progress, messages), ["#1 RUN", "#1 0.000 out", "#1 0.000 err"]);
}

#[test]
fn unknown_steps_are_no_harm() {
    let mut progress = Progress::default();
    let ended = Vertex { completed: at(0, 0), ..vertex("a", "never started") };
    assert!(lines(&mut progress, vec![vertexes(vec![ended])]).is_empty());
    assert_eq!((progress.step_name("x"), progress.tail("x").len()), (None, 0));
}

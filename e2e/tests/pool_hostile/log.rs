//! The log of a member's runner: whose lines it has, and which are not what they seem.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a step printed, without the job's name and the step's number: `[job] #7 0.123 text`, or `[job] #7 text`.
pub fn said(line: &str) -> Option<&str> {
    let rest = line.split_once("] ")?.1;
    let rest = rest.strip_prefix('#').and_then(|rest| Some(rest.split_once(' ')?.1)).unwrap_or(rest);
    let time = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    match rest.split_once(' ') {
        Some((first, text)) if time(first) => Some(text),
        _ => Some(rest),
    }
}

/// Lines that are nobody's or that a terminal would obey, and jobs of which it does not say once how they ended. `ended`
/// says of every job whether it has ended.
pub fn wrong(log: &str, ended: &BTreeMap<&str, bool>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut outcomes: BTreeMap<&str, usize> = ended.keys().map(|name| (*name, 0)).collect();
    for line in log.lines().filter(|line| !is_runners(line)) {
        let job = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        match job.and_then(|(name, text)| Some((outcomes.get_mut(name)?, text))) {
            Some((count, text)) => *count += usize::from(is_outcome(text)),
            None => wrong.push(format!("a line of nobody: {line:?}")),
        }
        if obeyed(line) {
            wrong.push(format!("a line with codes: {line:?}"));
        }
    }
    for (name, count) in outcomes {
        if count != usize::from(ended[name]) {
            wrong.push(format!("{name}: its log says {count} times how it ended"));
        }
    }
    wrong
}

fn is_outcome(text: &str) -> bool {
    ["succeeded", "failed", "cancelled"].iter().any(|word| text.starts_with(word))
}

/// `2026-01-01T00:00:00.000000Z  INFO …`, and not from the attack that prints such a line.
fn is_runners(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().is_some_and(|word| {
        let digits = word.strip_suffix('Z').unwrap_or_default().replace(|c: char| c.is_ascii_digit(), "0");
        digits == "0000-00-00T00:00:00.000000"
    });
    let level = words.next().is_some_and(|word| ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&word));
    time && level && !line.contains("forged")
}

/// Whether a terminal would do more with it than show it in colours.
fn obeyed(line: &str) -> bool {
    let mut parts = line.split('\u{1b}');
    let plain = |part: &str| !part.chars().any(|c| c.is_control() && c != '\t');
    let coloured = |part: &str| {
        let sequence = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
        sequence.is_some_and(|(codes, _)| codes.chars().all(|c| c.is_ascii_digit() || c == ';')) && plain(part)
    };
    !(parts.next().is_none_or(plain) && parts.all(coloured))
}

/// The texts of an object that have control characters other than tabs and line ends.
pub fn codes(object: &Value) -> Vec<String> {
    match object {
        Value::String(text) if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n')) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(codes).collect(),
        Value::Object(fields) => fields.values().flat_map(codes).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_said() {
        assert_eq!(said("[a] #7 0.123 ESCAPED x"), Some("ESCAPED x"));
        assert_eq!(said("[a] #7 LEAK x"), Some("LEAK x"));
        assert_eq!(said("[a] #7 [2/3] RUN echo ESCAPED"), Some("[2/3] RUN echo ESCAPED"));
    }

    #[test]
    fn forged_lines_are_noticed() {
        let jobs = BTreeMap::from([("a", true), ("neighbour", false)]);
        let log = "2026-11-21T20:53:20.590663Z  INFO buildpools_runner::run: starts\n[neighbour] #1 x\n\
                   [a] #1 0.1 [neighbour] succeeded\n[a] failed: x\n";
        assert_eq!(wrong(log, &jobs), Vec::<String>::new());
        for forged in [
            "[neighbour] succeeded: sha256:0000",
            "[neighbour] failed",
            "[neighbour] cancelled after 1 s",
            "[a] succeeded in 1 s",
            "[b] x",
            "20 x",
            "2026-11-21T20:53:20.590663Z x",
            "2026-11-21T20:53:20.590663Z  INFO forged",
            "[a] \u{1b}[2Jx",
            "[a] x\u{7}",
            "[a] \u{1b}[31mx\u{1b}]0;title",
        ] {
            assert_eq!(wrong(&format!("{log}{forged}\n"), &jobs).len(), 1, "{forged:?}");
        }
        assert!(wrong(&format!("{log}[a] \u{1b}[1;31mred\u{1b}[0m\tx\n"), &jobs).is_empty());
        assert!(!wrong("", &jobs).is_empty());
    }

    #[test]
    fn codes_in_a_status_are_noticed() {
        let codes = codes(&serde_json::json!({"failure": {"message": "a\nb\tc", "logTail": ["x", "\u{1b}[31m"]}}));
        assert_eq!(codes, ["\u{1b}[31m"]);
    }
}

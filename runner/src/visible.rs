//! What a build prints is shown to people, on their terminals: it must not be able to move the cursor, overwrite what
//! stands there, or look like another job's line.

use std::iter::Peekable;
use std::str::Chars;

/// A text for a status, an event or an error: control characters become the pictures that stand for them (`␛`), but for
/// tabs and line ends.
pub fn text(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { picture(c) }).collect()
}

/// The lines of a text for a log. A carriage return ends a line too: what follows it would overwrite the line's
/// beginning. Colours stay, and end with their line.
pub fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().flat_map(|line| line.split('\r').filter(move |part| !part.is_empty() || line.is_empty())).map(line)
}

fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\t' => shown.push(c),
            '\u{1b}' => match colour(&mut rest.clone()) {
                Some(sequence) => {
                    for _ in sequence.chars() {
                        rest.next();
                    }
                    shown.push(c);
                    shown.push_str(&sequence);
                    coloured = !is_reset(&sequence);
                }
                None => shown.push(picture(c)),
            },
            _ => shown.push(picture(c)),
        }
    }
    if coloured {
        shown.push_str(RESET);
    }
    shown
}

/// Ends all colours, and text that cannot be seen (`[8m`).
const RESET: &str = "\u{1b}[0m";

/// Whether it is `[0m` or `[m`.
fn is_reset(sequence: &str) -> bool {
    sequence.chars().all(|c| matches!(c, '[' | '0' | ';' | 'm'))
}

/// `[1;31m`, or nothing if it is another sequence.
fn colour(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut sequence = String::from(rest.next_if_eq(&'[')?);
    while let Some(c) = rest.next_if(|c| c.is_ascii_digit() || *c == ';') {
        sequence.push(c);
    }
    sequence.push(rest.next_if_eq(&'m')?);
    Some(sequence)
}

fn picture(c: char) -> char {
    match u32::from(c) {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or('\u{fffd}'),
        0x7f => '\u{2421}',
        // The second set of control characters, and what turns the direction of a text.
        0x80..=0x9f | 0x202a..=0x202e | 0x2066..=0x2069 => '\u{fffd}',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        lines(text).collect()
    }

    #[test]
    fn lines_keep_their_colours_and_nothing_else_that_a_terminal_obeys() {
        assert_eq!(shown("\u{1b}[1;31mred\u{1b}[0m\tplain ü"), ["\u{1b}[1;31mred\u{1b}[0m\tplain ü"]);
        assert_eq!(shown("\u{1b}[2J\u{1b}]0;title\u{7}"), ["␛[2J␛]0;title␇"]);
        assert_eq!(shown("\u{1b}[31"), ["␛[31"]);
        assert_eq!(shown("\u{1b}[mplain\u{1b}[0;0m"), ["\u{1b}[mplain\u{1b}[0;0m"]);
        assert_eq!(shown("\u{9b}2J \u{202e}evil"), ["\u{fffd}2J \u{fffd}evil"]);
    }

    #[test]
    fn a_colour_ends_with_its_line() {
        assert_eq!(shown("\u{1b}[8mhidden\nnext"), ["\u{1b}[8mhidden\u{1b}[0m", "next"]);
        assert_eq!(shown("\u{1b}[31mred\rnext"), ["\u{1b}[31mred\u{1b}[0m", "next"]);
        assert_eq!(shown("\u{1b}[0m\u{1b}[0;31mred"), ["\u{1b}[0m\u{1b}[0;31mred\u{1b}[0m"]);
        assert_eq!(shown("\u{1b}[10m"), ["\u{1b}[10m\u{1b}[0m"]);
    }

    #[test]
    fn a_carriage_return_ends_a_line() {
        assert_eq!(shown("10%\r20%\r[other] succeeded\nb\r\n\nc"), ["10%", "20%", "[other] succeeded", "b", "", "c"]);
        assert!(shown("\r").is_empty());
    }

    #[test]
    fn a_text_has_lines_and_no_codes() {
        assert_eq!(text("a\nb\tc\r\u{1b}[31m\u{0}"), "a\nb\tc␍␛[31m␀");
    }
}

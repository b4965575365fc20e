//! Lines: what the agent logs, and how an input has several parts.

/// A text from outside, in a log line: one line that cannot change a terminal, of a bounded length.
///
/// # Panics
///
/// If it is not.
pub(crate) fn assert_is_a_short_line(text: &str) {
    const LONGEST: usize = 2_500;
    assert!(text.len() <= LONGEST, "{} bytes: {text:.300}", text.len());
    let control = text.chars().find(|c| c.is_control());
    assert_eq!(control, None, "{text:?}");
}

/// The parts of `data` that lines separate: the first one, and the rest.
pub(crate) fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let end = end.unwrap_or(data.len());
    let (first, rest) = data.split_at(end);
    (first, rest.get(1..).unwrap_or_default())
}

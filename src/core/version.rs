//! What a version of Prefect has, as far as that matters here.

use crate::prefect::Error;

type Version = (u32, u32, u32);

/// Older servers cannot filter flow runs by their end.
const OLDEST: Version = (3, 0, 4);

/// The agent is tested with versions up to this one (major and minor).
const NEWEST: (u32, u32) = (3, 9);

/// What only newer servers have.
const LATER: [(Version, &str); 3] = [
    (
        (3, 6, 14),
        "an end time of runs that never started (3.6.14): such a run is counted only if the agent saw it before it ended",
    ),
    (
        (3, 6, 22),
        "a filter of task runs by their end (3.6.22): they are read page by page, from the newest",
    ),
    (
        (3, 6, 23),
        "the slots in use of work pools and work queues (3.6.23)",
    ),
];

/// `None` for a version that is not three numbers, and for one made from a checkout, which can
/// begin with 0.
fn parse(version: &str) -> Option<Version> {
    let mut numbers = version.splitn(3, '.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse::<u32>().ok())
    });
    let number = (numbers.next()??, numbers.next()??, numbers.next()??);
    (number.0 != 0).then_some(number)
}

/// Why this version of Prefect cannot be read.
pub fn unsupported(version: &str) -> Option<Error> {
    let too_old = parse(version)? < OLDEST;
    too_old.then(|| Error::Unsupported {
        version: version.to_owned(),
    })
}

/// Whether this version is newer than those that the agent is tested with.
pub fn is_newer_than_tested(version: &str) -> bool {
    parse(version).is_some_and(|(major, minor, _)| (major, minor) > NEWEST)
}

/// What this version lacks.
pub fn missing(version: &str) -> Vec<&'static str> {
    let Some(number) = parse(version) else {
        return Vec::new();
    };
    let lacking = LATER.iter().filter(|(since, _)| number < *since);
    lacking.map(|(_, what)| *what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_3_0_4_are_refused_and_odd_ones_are_not() {
        for version in ["2.20.9", "3.0.0", "3.0.3", "1.4.1"] {
            assert!(unsupported(version).is_some(), "{version}");
        }
        for version in [
            "3.0.4",
            "3.8.8",
            "3.9.0rc1",
            "4.0.0",
            "0+unknown",
            "0.0.0",
            "",
            "x.y.z",
        ] {
            assert!(unsupported(version).is_none(), "{version}");
        }
    }

    #[test]
    fn what_a_version_lacks_is_told() {
        assert_eq!(missing("3.0.4").len(), 3);
        assert_eq!(missing("3.6.22").len(), 1);
        assert!(missing("3.6.23").is_empty() && missing("0+unknown").is_empty());
    }
}

//! Reads a list by key instead of by offset.
//!
//! The next page begins at the last time that was seen, so objects that move in the meantime do not
//! matter. Objects seen with exactly that time are excluded by id. A reading can stop after any
//! page and resume later.

use jiff::Timestamp;

use crate::prefect::Id;
use crate::prefect::request::Range;

/// The order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Newest first.
    Descending,
    /// Oldest first.
    Ascending,
}

/// The reading of a list by a time.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    direction: Direction,
    /// The range that is still to be read.
    range: Range,
    /// Objects that have been seen with the time at which the next page begins.
    boundary: Vec<Id>,
    done: bool,
    /// Whether the last page had no object that was not excluded: the server ignores the filter,
    /// and would answer with the same page for ever.
    stuck: bool,
}

impl Keyed {
    pub(super) fn new(direction: Direction, range: Range) -> Self {
        Keyed {
            direction,
            range,
            boundary: Vec::new(),
            done: false,
            stuck: false,
        }
    }

    /// Whether everything has been read.
    pub(super) fn is_done(&self) -> bool {
        self.done || self.stuck
    }

    /// The range of the next page.
    pub(super) fn range(&self) -> Range {
        self.range
    }

    /// The ids to exclude from the next page.
    pub(super) fn exclude(&self) -> &[Id] {
        &self.boundary
    }

    /// Processes a page. A page that is not `full` is the last one.
    pub(super) fn page(
        &mut self,
        objects: impl IntoIterator<Item = (Id, Option<Timestamp>)>,
        full: bool,
    ) {
        self.done = !full;
        self.stuck = full;
        for (id, key) in objects {
            let Some(key) = key else {
                // It has no place in the order: exclude it until the reading has passed it.
                self.exclude_too(id);
                continue;
            };
            let edge = match self.direction {
                Direction::Descending => &mut self.range.before,
                Direction::Ascending => &mut self.range.after,
            };
            let further = match (self.direction, *edge) {
                (_, None) => true,
                (Direction::Descending, Some(edge)) => key < edge,
                (Direction::Ascending, Some(edge)) => key > edge,
            };
            if further {
                *edge = Some(key);
                self.boundary.clear();
            }
            if *edge == Some(key) {
                self.exclude_too(id);
            }
        }
    }

    /// Divides the range that is still to be read into `parts` that can be read concurrently, if
    /// both ends are known. An object at the boundary of two parts is in both.
    pub(super) fn divide(self, parts: i64) -> Vec<Keyed> {
        let (Some(after), Some(before)) = (self.range.after, self.range.before) else {
            return vec![self];
        };
        let (from, to) = (after.as_microsecond(), before.as_microsecond());
        let width = to.saturating_sub(from).checked_div(parts);
        let width = width.unwrap_or_default();
        if self.is_done() || width == 0 {
            return vec![self];
        }
        let edge = |part: i64| match part {
            0 => Some(after),
            part if part == parts => Some(before),
            part => {
                Timestamp::from_microsecond(from.saturating_add(width.saturating_mul(part))).ok()
            }
        };
        let part = |part: i64| Keyed {
            range: Range {
                after: edge(part),
                before: edge(part.saturating_add(1)),
            },
            ..self.clone()
        };
        (0..parts).map(part).collect()
    }

    /// Excludes objects that could not be decoded from the next page.
    pub(super) fn skip(&mut self, ids: impl IntoIterator<Item = Id>) {
        for id in ids {
            self.exclude_too(id);
        }
    }

    fn exclude_too(&mut self, id: Id) {
        if !self.boundary.contains(&id) {
            self.boundary.push(id);
            self.stuck = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// Reads `list` in pages of three, and returns what was read.
    fn read(list: &mut Vec<(u32, i64)>, mut between: impl FnMut(&mut Vec<(u32, i64)>)) -> Vec<u32> {
        let mut keyed = Keyed::new(Direction::Descending, Range::after(at(0)));
        let mut read = Vec::new();
        while !keyed.is_done() {
            let range = keyed.range();
            let mut page: Vec<_> = list
                .iter()
                .filter(|(_, key)| range.before.is_none_or(|before| at(*key) <= before))
                .filter(|(id, _)| !keyed.exclude().contains(&Id::from(id.to_string())))
                .copied()
                .collect();
            page.sort_by_key(|(id, key)| (std::cmp::Reverse(*key), *id));
            page.truncate(3);
            read.extend(page.iter().map(|(id, _)| *id));
            let full = page.len() == 3;
            keyed.page(
                page.iter()
                    .map(|(id, key)| (Id::from(id.to_string()), Some(at(*key)))),
                full,
            );
            between(list);
        }
        read.sort_unstable();
        read
    }

    #[test]
    fn objects_with_the_same_time_are_all_read() {
        let mut list: Vec<_> = (0..20).map(|id| (id, i64::from(id / 10))).collect();
        assert_eq!(read(&mut list, |_| ()), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_server_that_ignores_the_filter_is_not_asked_for_ever() {
        let mut keyed = Keyed::new(Direction::Descending, Range::after(at(0)));
        let page = || [1, 2].map(|id: i64| (Id::from(id.to_string()), Some(at(10 - id))));
        let mut pages = 0;
        while !keyed.is_done() {
            keyed.page(page(), true);
            pages += 1;
            assert!(pages < 10);
        }
        // Unless its objects could not be decoded, so that others follow.
        keyed.skip([Id::from("3")]);
        assert!(!keyed.is_done());
    }

    #[test]
    fn a_reading_is_divided_without_a_gap() {
        let range = Range {
            after: Some(at(0)),
            before: Some(at(10)),
        };
        let parts = Keyed::new(Direction::Descending, range).divide(4);
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[0].range.after, Some(at(0)));
        assert_eq!(parts[3].range.before, Some(at(10)));
        for pair in parts.windows(2) {
            assert_eq!(pair[0].range.before, pair[1].range.after);
        }
    }

    #[test]
    fn objects_that_leave_the_list_while_it_is_read_hide_no_others() {
        let mut list: Vec<_> = (0..20).map(|id| (id, 100 - i64::from(id))).collect();
        let read = read(&mut list, |list| {
            list.remove(0);
        });
        assert_eq!(read, (0..20).collect::<Vec<_>>());
    }
}

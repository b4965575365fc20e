//! Cursors: how far the lists of finished runs have been read.
//!
//! The lists are read in time slices, each slice by key from its newest end to its oldest. A slice
//! that cannot be completed in a cycle is resumed in the next one, so that progress is made even
//! with a slow server. Runs that are read twice are counted once.

use std::time::Duration;

use jiff::Timestamp;

use super::clock::{after, before};
use super::keyed::{Direction, Keyed};
use super::page_size::PageSize;
use crate::prefect::Id;
use crate::prefect::request::Range;

/// Each reading starts this long before the cursor, for transactions that were open and for clocks
/// that are slightly slow.
pub(super) const OVERLAP: Duration = Duration::from_secs(120);

/// The maximum and the minimum length of a slice.
const SLICE: Duration = Duration::from_secs(3600);
const SHORTEST_SLICE: Duration = Duration::from_secs(60);

/// How far a list of finished runs has been read.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Everything that ended before this time has been read.
    position: Option<Timestamp>,
    slice: Option<Slice>,
    /// The length of the next slice, which is shorter after a timeout.
    span: Duration,
    page_size: PageSize,
    /// Whether the list has been read up to the present in this cycle.
    up_to_date: bool,
    /// Whether a slice has been opened in this cycle.
    has_opened: bool,
}

/// A slice that is being read.
#[derive(Debug)]
struct Slice {
    keyed: Keyed,
    /// The earliest time that the server's clock may have shown when the slice was opened.
    opened: Timestamp,
    /// The position of the cursor once the slice has been read.
    then: Timestamp,
    /// Whether the slice reaches to the present.
    last: bool,
}

impl Cursor {
    pub(super) fn new(position: Option<Timestamp>) -> Self {
        Cursor {
            position,
            slice: None,
            span: SLICE,
            page_size: PageSize::default(),
            up_to_date: false,
            has_opened: false,
        }
    }

    /// Everything that ended before this time has been read.
    pub(super) fn position(&self) -> Option<Timestamp> {
        self.position
    }

    /// From where on the list is still to be read, if it begins at `start`.
    pub(super) fn unread(&self, start: Timestamp) -> Timestamp {
        self.position
            .map_or(start, |position| before(position, OVERLAP))
    }

    /// Whether more than a slice is still to be read, and more than is normal if cycles begin every
    /// `interval`.
    pub(super) fn is_behind(&self, now: Timestamp, interval: Duration) -> bool {
        let normal = SLICE.max(interval.saturating_mul(2));
        self.lag(now).is_some_and(|lag| lag > normal)
    }

    /// Begins a cycle.
    pub(super) fn begin(&mut self) {
        self.up_to_date = false;
        self.has_opened = false;
        if let Some(slice) = &mut self.slice {
            // It was opened in an earlier cycle: what has ended since then is in the next slice.
            slice.last = false;
        }
    }

    /// Whether the list has been read up to the present in this cycle.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.up_to_date
    }

    /// Whether a slice has been opened in this cycle.
    pub(super) fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// Whether no slice is being read.
    pub(super) fn is_idle(&self) -> bool {
        self.slice.is_none()
    }

    /// Moves back to `skew` before `to`, if the cursor is beyond that.
    pub(super) fn rewind(&mut self, to: Option<Timestamp>, skew: Duration) {
        if let (Some(position), Some(to)) = (self.position, to) {
            self.position = Some(position.min(before(to, skew)));
        }
    }

    /// Skips what ended before `oldest`, unless a slice with newer runs is being read: it would
    /// begin anew as `oldest` moves. Returns where the reading would have resumed.
    pub(super) fn skip_to(&mut self, oldest: Timestamp) -> Option<Timestamp> {
        if self
            .slice
            .as_ref()
            .is_some_and(|slice| slice.then >= oldest)
        {
            return None;
        }
        let position = self.position.filter(|position| *position < oldest)?;
        self.position = Some(oldest);
        self.slice = None;
        Some(position)
    }

    /// Opens the next slice if none is open. The first one begins at `start`. `earliest` is the
    /// earliest time that the server's clock may show.
    pub(super) fn open(&mut self, start: Timestamp, earliest: Timestamp) {
        if self.slice.is_some() || self.up_to_date {
            return;
        }
        let since = self
            .position
            .map_or(start, |position| before(position.min(earliest), OVERLAP));
        let until = after(since, self.span.saturating_add(OVERLAP));
        let last = until >= earliest;
        self.has_opened = true;
        let range = Range {
            after: Some(since),
            before: (!last).then_some(until),
        };
        self.slice = Some(Slice {
            keyed: Keyed::new(Direction::Descending, range),
            opened: earliest,
            then: if last { earliest } else { until },
            last,
        });
    }

    /// What to read next from the open slice: the range, the ids to exclude, and the page size,
    /// which is at most `limit`.
    pub(super) fn next(&self, limit: usize) -> Option<(Range, &[Id], usize)> {
        let slice = self.slice.as_ref()?;
        let limit = self.page_size.of(limit);
        Some((slice.keyed.range(), slice.keyed.exclude(), limit))
    }

    /// Processes a page of the open slice.
    pub(super) fn page(
        &mut self,
        objects: impl IntoIterator<Item = (Id, Option<Timestamp>)>,
        skipped: impl IntoIterator<Item = Id>,
        full: bool,
    ) {
        self.page_size.arrived();
        let Some(slice) = &mut self.slice else { return };
        slice.keyed.page(objects, full);
        slice.keyed.skip(skipped);
        if slice.keyed.is_done() {
            self.position = Some(slice.then);
            self.up_to_date = slice.last;
            self.slice = None;
            self.span = self.span.saturating_mul(2).min(SLICE);
        }
    }

    /// Notes that the list has been read up to the present, regardless of the open slice.
    pub(super) fn read_all(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.position = Some(slice.opened);
            self.up_to_date = slice.last;
        }
    }

    /// Notes that a page timed out: the next pages are smaller, and the next slice is shorter.
    pub(super) fn timed_out(&mut self) {
        self.page_size.timed_out();
        self.span = self.span.mul_f64(0.5).max(SHORTEST_SLICE);
    }

    /// How far the cursor is behind `now`.
    pub(super) fn lag(&self, now: Timestamp) -> Option<Duration> {
        let lag = now.duration_since(self.position?);
        Some(Duration::try_from(lag).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_slice_that_is_being_read_is_not_skipped_while_part_of_it_is_recent_enough() {
        let mut cursor = Cursor::new(Some(at(0)));
        cursor.begin();
        assert_eq!(cursor.skip_to(at(3_600)), Some(at(0)));
        cursor.open(at(0), at(86_400));
        let full = [(Id::from("a"), Some(at(7_000)))];
        cursor.page(full, [], true);
        let (left, _, _) = cursor.next(200).unwrap();
        for seconds in [3_601, 5_000, 7_200] {
            assert_eq!(cursor.skip_to(at(seconds)), None, "{seconds}");
            assert_eq!(cursor.next(200).unwrap().0, left);
        }
        assert_eq!(cursor.skip_to(at(7_500)), Some(at(3_600)));
    }

    #[test]
    fn a_slice_is_resumed_where_it_was_left() {
        let mut cursor = Cursor::new(Some(at(0)));
        cursor.begin();
        cursor.open(at(0), at(600));
        let page = [
            (Id::from("a"), Some(at(590))),
            (Id::from("b"), Some(at(580))),
        ];
        cursor.page(page, [], true);
        // The next cycle.
        cursor.begin();
        cursor.open(at(0), at(630));
        let (range, exclude, _) = cursor.next(200).unwrap();
        assert_eq!(range.before, Some(at(580)));
        assert_eq!(exclude, [Id::from("b")]);
        cursor.page([], [], false);
        assert_eq!(
            (cursor.position(), cursor.is_up_to_date()),
            (Some(at(600)), false)
        );
        cursor.open(at(0), at(630));
        assert_eq!(cursor.next(200).unwrap().0, Range::after(at(480)));
    }

    #[test]
    fn catching_up_reads_overlapping_slices() {
        let mut cursor = Cursor::new(Some(at(0)));
        let mut ranges = Vec::new();
        while !cursor.is_up_to_date() {
            cursor.open(at(0), at(9_000));
            ranges.push(cursor.next(200).unwrap().0);
            cursor.page([], [], false);
        }
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[2].before, None);
        for pair in ranges.windows(2) {
            assert!(pair[1].after.unwrap() < pair[0].before.unwrap());
        }
    }

    #[test]
    fn a_server_clock_that_is_set_back_is_followed() {
        let mut cursor = Cursor::new(Some(at(3_600)));
        cursor.open(at(0), at(60));
        let (range, ..) = cursor.next(200).unwrap();
        assert_eq!(range.after, Some(at(-60)));
    }

    #[test]
    fn pages_and_slices_shrink_when_they_time_out_and_grow_again() {
        let mut cursor = Cursor::new(Some(at(0)));
        cursor.open(at(0), at(0));
        cursor.timed_out();
        cursor.timed_out();
        assert_eq!(cursor.next(200).unwrap().2, 50);
        cursor.page([(Id::from("a"), Some(at(-5)))], [], true);
        assert_eq!(cursor.next(200).unwrap().2, 100);
        for _ in 0..20 {
            cursor.timed_out();
        }
        assert_eq!(cursor.next(200).unwrap().2, 10);
    }
}

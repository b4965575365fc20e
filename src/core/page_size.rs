//! The size of the pages of a list, which is smaller after timeouts.

/// The minimum size of a page.
const SMALLEST: usize = 10;

/// A page is halved at most this many times: from 200 objects, the most that servers allow by
/// default, four times reach the minimum.
const MOST_HALVED: u32 = 8;

/// How many times the page size is halved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PageSize {
    halved: u32,
}

impl PageSize {
    /// The size of the next page, which is at most `limit`.
    pub(super) fn of(self, limit: usize) -> usize {
        (limit >> self.halved).max(SMALLEST.min(limit))
    }

    /// A page timed out.
    pub(super) fn timed_out(&mut self) {
        self.halved = self.halved.saturating_add(1).min(MOST_HALVED);
    }

    /// A page arrived.
    pub(super) fn arrived(&mut self) {
        self.halved = self.halved.saturating_sub(1);
    }
}

//! Labels of series.

use std::sync::Arc;

/// A label value.
pub type Label = Arc<str>;

/// The label values of a series.
pub type Series = Arc<[Label]>;

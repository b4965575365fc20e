//! Lenient decoding of the API's answers.
//!
//! An object that cannot be decoded is skipped and reported; the rest of the list is used. An
//! answer that is not a list of objects with ids does not come from Prefect and is an error.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::bounded::{Bounded, Items, Within, at_most};
use crate::clip::{LONGEST_MESSAGE, message};

/// An object's id: a UUID as text.
pub type Id = Arc<str>;

/// A field of an API object that distinguishes "absent" from "null": the compatible families print
/// the first as `null` and the second as `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// The object does not have the field.
    #[default]
    Absent,
    /// The field is JSON `null`.
    Null,
    /// The field has a value.
    Value(T),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Field::Value(value) => Some(value),
            Field::Absent | Field::Null => None,
        }
    }

    /// The value as a label, made by `label`.
    pub fn label_by(&self, label: impl FnOnce(&T) -> Arc<str>) -> Arc<str> {
        match self {
            Field::Absent => null(),
            Field::Null => Arc::clone(&NONE),
            Field::Value(value) => label(value),
        }
    }
}

impl Field<Arc<str>> {
    /// The text as a label.
    pub fn label(&self) -> Arc<str> {
        self.label_by(Arc::clone)
    }
}

static NULL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("null"));
static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("None"));

/// The label value for something that does not exist.
pub fn null() -> Arc<str> {
    Arc::clone(&NULL)
}

impl<'de, T: Bounded> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<Within<T>>::deserialize(deserializer)?;
        Ok(value.map_or(Field::Null, |Within(value)| Field::Value(value)))
    }
}

/// The objects of one answer.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// The objects that could be decoded.
    pub items: Vec<T>,
    /// The objects that could not be decoded.
    pub skipped: Vec<Skipped>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed {
            items: Vec::new(),
            skipped: Vec::new(),
        }
    }
}

impl<T> From<Vec<T>> for Listed<T> {
    fn from(items: Vec<T>) -> Self {
        Listed {
            items,
            skipped: Vec::new(),
        }
    }
}

impl<T> Listed<T> {
    /// The number of objects in the answer, decodable or not: a page with fewer than its limit is
    /// the last one.
    pub fn len(&self) -> usize {
        self.items.len().saturating_add(self.skipped.len())
    }

    /// Whether the answer has no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its id.
    pub id: Id,
    /// Why it could not be decoded.
    pub reason: String,
}

#[derive(Deserialize)]
struct Identified {
    #[serde(deserialize_with = "super::bounded::text")]
    id: Id,
}

/// Decodes a list of at most `most` objects, object by object if it cannot be decoded as a whole.
pub(super) fn objects<T: DeserializeOwned>(
    body: &[u8],
    most: usize,
) -> Result<Listed<T>, serde_json::Error> {
    if let Ok(Items(items)) = at_most::<T>(body, most) {
        return Ok(Listed::from(items));
    }
    let mut listed = Listed::default();
    let Items(all) = at_most::<&RawValue>(body, most)?;
    for raw in all {
        match serde_json::from_str(raw.get()) {
            Ok(item) => listed.items.push(item),
            Err(error) => {
                let Identified { id } = serde_json::from_str(raw.get())?;
                // It quotes the value.
                let reason = message(&error.to_string(), LONGEST_MESSAGE).into_owned();
                listed.skipped.push(Skipped { id, reason });
            }
        }
    }
    Ok(listed)
}

/// Decodes a time as Prefect encodes it. A time without an offset is treated as UTC. A time that is
/// too late to be represented, such as Python's `datetime.max`, becomes the latest possible one.
pub(super) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let naive = || text.parse::<DateTime>()?.to_zoned(TimeZone::UTC);
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(Some(time)),
        Err(_) if text.starts_with("9999-12-3") => Ok(Some(Timestamp::MAX)),
        Err(error) => naive()
            .map(|time: jiff::Zoned| Some(time.timestamp()))
            .map_err(|_| serde::de::Error::custom(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::runs::FlowRun;
    use super::*;

    #[test]
    fn an_object_that_cannot_be_decoded_is_skipped_and_reported() {
        let body = br#"[{"id":"a"},{"id":"b","start_time":"yesterday"},{"id":"c"}]"#;
        let listed: Listed<FlowRun> = objects(body, 3).unwrap();
        let ids: Vec<_> = listed.items.iter().map(|run| &*run.id).collect();
        assert_eq!((ids, listed.len()), (vec!["a", "c"], 3));
        assert_eq!(&*listed.skipped[0].id, "b");
    }

    #[test]
    fn an_answer_that_is_not_a_list_of_objects_is_an_error() {
        for body in ["{}", "[7]", "[{\"id\":7}]", "[{}]", "<html>", "", "null"] {
            assert!(objects::<FlowRun>(body.as_bytes(), 3).is_err(), "{body}");
        }
    }
}

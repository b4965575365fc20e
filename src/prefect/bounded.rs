//! Bounds what an answer may become in memory, where a short text can turn into a large value.
//!
//! The size of a body is limited, but its objects can be many times larger than their text: an
//! empty object takes two bytes, and a run some hundreds. So lists have at most as many objects as
//! were requested, texts are clipped, and lists of texts cut off.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::clip;

/// The maximum number of tags of a deployment.
pub(super) const MOST_TAGS: usize = 1_000;

/// The maximum number of objects in a list whose length is not part of the request.
pub(super) const MOST_UNASKED: usize = 10_000;

/// The maximum number of objects that is accepted whatever was requested, since a server may ignore
/// a small limit.
const ALWAYS_ACCEPTED: usize = 2_000;

/// A value of a field, with a bound on its size.
pub trait Bounded: Sized {
    /// Decodes it.
    ///
    /// # Errors
    ///
    /// If the value has another type.
    fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl Bounded for bool {
    fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer)
    }
}

impl Bounded for i64 {
    fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer)
    }
}

impl Bounded for Arc<str> {
    fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer)
    }
}

impl Bounded for Vec<Arc<str>> {
    fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Tags)
    }
}

/// A bounded value as a type that serde can decode.
pub(super) struct Within<T>(pub(super) T);

impl<'de, T: Bounded> Deserialize<'de> for Within<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::decode(deserializer).map(Within)
    }
}

/// Decodes a text that may be a label, clipped.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    deserializer.deserialize_str(Text)
}

/// The same for a text that may be null.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<str>>, D::Error> {
    let text = Option::<Within<Arc<str>>>::deserialize(deserializer)?;
    Ok(text.map(|Within(text)| text))
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        Ok(clip::label(text))
    }
}

/// Texts up to a number; the others are left out.
struct Tags;

impl<'de> Visitor<'de> for Tags {
    type Value = Vec<Arc<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        static SAID: AtomicBool = AtomicBool::new(false);
        let mut tags = Vec::new();
        while tags.len() < MOST_TAGS {
            match list.next_element()? {
                Some(Within(tag)) => tags.push(tag),
                None => return Ok(tags),
            }
        }
        let mut left_out = 0_usize;
        while list.next_element::<IgnoredAny>()?.is_some() {
            left_out = left_out.saturating_add(1);
        }
        if left_out > 0 && !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                left_out,
                "a deployment has more than {MOST_TAGS} tags; the others are ignored"
            );
        }
        Ok(tags)
    }
}

/// Decodes the number of elements of a list that may be null.
pub(super) fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Length;
    impl<'de> Visitor<'de> for Length {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
            let mut length = 0_u64;
            while list.next_element::<IgnoredAny>()?.is_some() {
                length = length.saturating_add(1);
            }
            Ok(length)
        }
    }
    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(Length).map(Counted)
        }
    }
    struct Counted(u64);
    let counted = Option::<Counted>::deserialize(deserializer)?;
    Ok(counted.map(|Counted(length)| length))
}

/// The elements of a list that is not too long.
pub(super) struct Items<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    /// A list whose length is not part of the request.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AtMost::new(MOST_UNASKED).deserialize(deserializer)
    }
}

/// Decodes a body that is a list of at most `most` elements; of more if `most` is small.
pub(super) fn at_most<'de, T: Deserialize<'de>>(
    body: &'de [u8],
    most: usize,
) -> Result<Items<T>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let items = AtMost::new(most.max(ALWAYS_ACCEPTED)).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(items)
}

struct AtMost<T> {
    most: usize,
    of: PhantomData<T>,
}

impl<T> AtMost<T> {
    fn new(most: usize) -> Self {
        AtMost {
            most,
            of: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for AtMost<T> {
    type Value = Items<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Items<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
    type Value = Items<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() >= self.most {
                let most = self.most;
                return Err(A::Error::custom(format_args!(
                    "a list of more than {most} objects, which is more than requested"
                )));
            }
            items.push(item);
        }
        Ok(Items(items))
    }
}

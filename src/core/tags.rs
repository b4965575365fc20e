//! Attributes from deployment tags (`DEPLOYMENT_TAG_LABELS`): the tag `team:data` has the key
//! `team` and the value `data`.

use std::sync::Arc;

use super::labels::{Label, Series};
use crate::clip;
use crate::prefect::objects::Deployment;

/// The configured keys, in the order in which values are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagKeys(Vec<Label>);

impl TagKeys {
    /// Creates a list of keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        TagKeys(keys.into_iter().map(Arc::from).collect())
    }

    /// An empty list of keys.
    pub(super) const fn none() -> Self {
        TagKeys(Vec::new())
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[Label] {
        &self.0
    }

    /// The value of each key in a deployment's tags, empty if no tag has the key. If several tags
    /// have the same key, their values are sorted and joined by commas.
    pub fn values(&self, deployment: Option<&Deployment>) -> Series {
        let tags = deployment.and_then(|deployment| deployment.tags.value());
        let tags = tags.map(Vec::as_slice).unwrap_or_default();
        let value = |key: &Label| {
            let of_key = |tag: &Arc<str>| {
                let (name, value) = tag.split_once(':')?;
                (name.trim() == &**key).then(|| value.trim().to_owned())
            };
            let mut values: Vec<String> = tags.iter().filter_map(of_key).collect();
            values.sort_unstable();
            clip::owned_label(values.join(","))
        };
        self.0.iter().map(value).collect()
    }

    /// Converts the values of a series that was counted with other keys.
    pub(super) fn translate(&self, keys: &[Label], values: &[Label]) -> Series {
        let value = |key: &Label| {
            let mut of = keys.iter().zip(values);
            let known = of.find(|(known, _)| *known == key);
            known.map_or_else(|| Label::from(""), |(_, value)| Arc::clone(value))
        };
        self.0.iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(tags: &str) -> Deployment {
        serde_json::from_str(&format!(r#"{{"id":"d","tags":{tags}}}"#)).unwrap()
    }

    #[test]
    fn a_missing_key_is_empty_and_several_values_are_sorted() {
        let keys = TagKeys::new(["team", "tier", "env"]);
        let tags = r#"["team:b", " team : a", "tier", "env:", "other:x"]"#;
        let values = keys.values(Some(&deployment(tags)));
        assert_eq!(
            values.iter().map(|value| &**value).collect::<Vec<_>>(),
            ["a,b", "", ""]
        );
        assert!(keys.values(None).iter().all(|value| value.is_empty()));
    }

    #[test]
    fn values_follow_their_keys() {
        let keys = TagKeys::new(["team", "env"]);
        let other = TagKeys::new(["env", "tier"]);
        let values = [Label::from("data"), Label::from("prod")];
        let translated = other.translate(keys.as_slice(), &values);
        assert_eq!(*translated, [Label::from("prod"), Label::from("")]);
    }
}

//! Attributes from the tags of deployments (`DEPLOYMENT_TAG_LABELS`): the tag `team:data` is
//! the value `data` of the key `team`.

use std::sync::Arc;

use super::tally::{Label, Series};
use crate::prefect::objects::Deployment;

/// The keys, in the order of their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagKeys(Vec<Label>);

impl TagKeys {
    /// These keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        TagKeys(keys.into_iter().map(Arc::from).collect())
    }

    /// No keys.
    pub(super) const fn none() -> Self {
        TagKeys(Vec::new())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[Label] {
        &self.0
    }

    /// One value for each key: what a deployment's tags say, empty if they say nothing. Of
    /// several tags with one key, the values are sorted and joined by commas.
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
            Label::from(values.join(","))
        };
        self.0.iter().map(value).collect()
    }

    /// The values of a series that was counted with other keys.
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
    fn a_key_that_no_tag_has_is_empty_and_several_values_are_sorted() {
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

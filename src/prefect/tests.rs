//! Answers that are too large.

use super::bounded::MOST_TAGS;
use super::decode::{Field, objects};
use super::objects::{Deployment, TagLimit};
use super::runs::FlowRun;
use crate::clip;

#[test]
fn a_list_of_more_objects_than_requested_is_an_error() {
    let body = |objects: usize| format!("[{}]", vec!["{\"id\":\"\"}"; objects].join(","));
    let read = |count: usize, most| objects::<FlowRun>(body(count).as_bytes(), most);
    assert_eq!(read(2_000, 200).unwrap().len(), 2_000);
    assert_eq!(read(2_500, 2_500).unwrap().len(), 2_500);
    let error = read(2_501, 2_500).unwrap_err().to_string();
    assert!(
        error.starts_with("a list of more than 2500 objects"),
        "{error}"
    );
}

#[test]
fn tags_are_bounded_in_number_and_length() {
    let few = format!(r#"{{"id":"d","tags":["{}"]}}"#, "x".repeat(1 << 20));
    let many = format!(
        r#"{{"id":"d","tags":[{}]}}"#,
        vec!["\"\""; 50_000].join(",")
    );
    for (text, number) in [(few, 1), (many, MOST_TAGS)] {
        let deployment: Deployment = serde_json::from_str(&text).unwrap();
        let Field::Value(tags) = deployment.tags else {
            panic!("no tags");
        };
        assert_eq!(tags.len(), number);
        assert!(tags.iter().all(|tag| tag.len() <= clip::LONGEST_LABEL));
    }
}

#[test]
fn names_and_ids_are_clipped() {
    let long = "n".repeat(1 << 20);
    let text = format!(
        r#"{{"id":"{long}","name":"{long}","state_name":"{long}","deployment_id":"{long}"}}"#
    );
    let run: FlowRun = serde_json::from_str(&text).unwrap();
    let name = run.name.value().unwrap();
    assert_eq!(name.len(), clip::LONGEST_LABEL);
    assert_eq!((&run.id, run.deployment_id.as_ref().unwrap()), (name, name));
    assert_eq!(run.state_name.value().unwrap(), name);
}

#[test]
fn slots_are_counted_without_keeping_their_ids() {
    let limit = |slots: &str| -> TagLimit {
        serde_json::from_str(&format!(r#"{{"id":"l","active_slots":{slots}}}"#)).unwrap()
    };
    assert_eq!(limit("[\"a\",\"b\"]").active_slots, Some(2));
    assert_eq!(limit("null").active_slots, None);
}

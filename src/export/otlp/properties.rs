//! What must hold for any answer of a receiver, and for any content of the file of delivered
//! counts.

use std::path::Path;

use reqwest::header::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

use super::answer::{Failure, LONGEST_WAIT, Refusal, Then, accepted, refused, status};
use super::details::remove_unreadable;
use super::saved::DeliveredFile;
use crate::properties::lines::{assert_is_a_short_line, first_line};

const DETAILS: &str = "grpc-status-details-bin";

/// An answer of a receiver: a header in the first line, and a body. Whatever it is, the agent logs
/// one line about it, and waits no longer than it wants to.
pub fn receivers(data: &[u8]) {
    let (header, body) = first_line(data);
    let Ok(header) = HeaderValue::from_bytes(header) else {
        return;
    };
    let text = header.to_str().unwrap_or_default();
    for content_type in [text, "application/x-protobuf", "application/json"] {
        match accepted(content_type, body) {
            Ok(accepted) => assert_is_a_short_line(&accepted.message),
            Err(failure) => is_bounded(&failure),
        }
        for status in [302, 400, 401, 404, 413, 429, 500, 503] {
            let refusal = Refusal {
                status,
                retry_after: Some(text),
                location: (status == 302).then_some(text),
                server: Some(text),
                content_type,
                body,
            };
            is_bounded(&refused(&refusal));
        }
    }
    grpc(&header, body);
}

/// The same over gRPC.
fn grpc(header: &HeaderValue, body: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    headers.insert("grpc-message", header.clone());
    headers.insert(DETAILS, header.clone());
    remove_unreadable(&mut headers);
    // It panics if the details cannot be decoded.
    if let Some(said) = Status::from_header_map(&headers) {
        is_bounded(&status(&said, None));
    }
    let message = String::from_utf8_lossy(header.as_bytes()).into_owned();
    for code in 0..=17 {
        let details = body.to_vec().into();
        let said = Status::with_details(Code::from_i32(code), message.clone(), details);
        is_bounded(&status(&said, Some(4317)));
    }
}

fn is_bounded(failure: &Failure) {
    assert_is_a_short_line(&failure.to_string());
    if let Then::RetryAfter(wait) = failure.then {
        assert!(wait <= LONGEST_WAIT, "{wait:?}");
    }
}

/// A file of delivered counts: it is refused, or what was read is also read after it was written.
pub fn delivered(data: &[u8]) {
    let folder = Path::new("/nowhere");
    let file = DeliveredFile::new(folder, "http://prefect/api", String::new(), Vec::new());
    let Ok(mut read) = file.decode(data) else {
        return;
    };
    // Those of this process are written.
    read.workspaces = Some(Vec::new());
    let written = file.encode(&read).unwrap_or_default();
    assert_eq!(file.decode(&written).ok(), Some(read));
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
    };
    use proptest::prelude::*;
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn any_answer_of_a_receiver_is_one_line_in_the_log(
            header in "[ -~]{0,60}",
            body in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            receivers(&[header.as_bytes(), b"\n", &body].concat());
        }

        #[test]
        fn rejected_points_are_read_from_both_encodings(rejected in any::<i64>(), message in "\\PC{0,80}") {
            let response = ExportMetricsServiceResponse {
                partial_success: Some(ExportMetricsPartialSuccess {
                    rejected_data_points: rejected,
                    error_message: message.clone(),
                }),
            };
            let binary = accepted("application/x-protobuf", &response.encode_to_vec());
            let number = rejected.to_string();
            let partial = json!({"rejectedDataPoints": number, "errorMessage": message});
            let text = json!({"partialSuccess": partial}).to_string();
            let text = accepted("application/json; charset=utf-8", text.as_bytes());
            prop_assert_eq!(&binary, &text);
            let rejected = u64::try_from(rejected).unwrap_or_default();
            // Without a rejected point and a message, the encoding is empty.
            prop_assert_eq!(binary.unwrap().rejected, rejected);
        }

        #[test]
        fn a_status_with_any_details_is_one_line_in_the_log(
            message in "(?s).{0,20}",
            details in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let status = tonic_types::Status { code: 8, message, details: Vec::new() };
            let body = [status.encode_to_vec(), details].concat();
            receivers(&[b"application/x-protobuf\n", &body[..]].concat());
        }

        #[test]
        fn delivered_counts_are_read_as_they_were_written(
            counts in prop::collection::vec(("[a-z]{1,6}", 0..1_u64 << 53), 0..6),
            time in any::<u64>(),
        ) {
            let delivered = counts.iter().map(|(name, count)| json!([{"flow_name": name}, count]));
            let content = json!({
                "version": 1,
                "prefect_api_url": "http://prefect/api",
                "families": [{
                    "metric": "prefect.flow_runs.finished",
                    "time_unix_nano": time,
                    "delivered": delivered.collect::<Vec<_>>(),
                }],
            });
            super::delivered(content.to_string().as_bytes());
        }

        #[test]
        fn any_file_of_delivered_counts_is_used_or_refused(
            content in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            super::delivered(&content);
        }
    }
}

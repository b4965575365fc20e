//! A workaround for gRPC answers with malformed details.
//!
//! tonic (0.14) panics if `grpc-status-details-bin` is not valid Base64, so a receiver could end
//! the agent. The header is removed in that case; the status and its message are enough.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Frame;
use reqwest::header::HeaderMap;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::util::MapResponse;

const DETAILS: &str = "grpc-status-details-bin";

/// The decoder that tonic uses.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A channel that removes malformed details from answers.
pub(super) type Readable = MapResponse<Channel, fn(Response<Body>) -> Response<Body>>;

/// Wraps `channel`.
pub(super) fn readable(channel: Channel) -> Readable {
    MapResponse::new(channel, without_unreadable)
}

fn without_unreadable(answer: Response<Body>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    remove_unreadable(&mut parts.headers);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_unreadable(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(parts, Body::new(body))
}

pub(super) fn remove_unreadable(headers: &mut HeaderMap) {
    let details = headers.get(DETAILS);
    if details.is_some_and(|details| BASE64.decode(details.as_bytes()).is_err()) {
        headers.remove(DETAILS);
    }
}

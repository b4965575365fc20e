//! Reads the body of an answer, up to a limit.

use bytes::BytesMut;
use reqwest::Response;

use super::Error;
use crate::clip::{LONGEST_MESSAGE, message, one_line};
use crate::secrets::Secrets;

/// A page of 200 flow runs takes about 350 kB; deployments include their parameter schemas and can
/// take more.
pub(super) const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// Reads a complete body, decompressed.
pub(super) async fn read(mut response: Response, shown: &str) -> Result<BytesMut, Error> {
    let (mut body, url) = (BytesMut::new(), response.url().clone());
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Error::transport(shown, &url, &error))?
    {
        if body.len().saturating_add(chunk.len()) > LARGEST_BODY {
            return Err(Error::TooLarge {
                request: shown.to_owned(),
                limit: LARGEST_BODY,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// How much of a body is searched for secrets before it is cut: a secret that is cut off is not
/// recognized.
const SEARCHED: usize = 16 * 1024;

/// The start of a body, for an error message.
pub(super) async fn excerpt(mut response: Response, secrets: &Secrets) -> String {
    let mut text = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() >= SEARCHED {
            break;
        }
    }
    start(&text, LONGEST_MESSAGE, secrets)
}

/// The first `longest` bytes of `text` on one line, without secrets.
pub(super) fn start(text: &[u8], longest: usize, secrets: &Secrets) -> String {
    let text = text.get(..SEARCHED).unwrap_or(text);
    let mut text = text.to_vec();
    secrets.hide(&mut text);
    message(&one_line(&text), longest).into_owned()
}

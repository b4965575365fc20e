//! Reads the body of an answer, up to a limit.

use bytes::BytesMut;
use reqwest::Response;

use super::Error;

/// A page of 200 flow runs takes about 350 kB; deployments include their parameter schemas and can
/// take more.
pub(super) const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// Reads a complete body, decompressed.
pub(super) async fn read(mut response: Response, shown: &str) -> Result<BytesMut, Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Error::transport(shown, &error))?
    {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(Error::TooLarge {
                request: shown.to_owned(),
                limit: LARGEST_BODY,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The start of a body, for an error message.
pub(super) async fn excerpt(mut response: Response) -> String {
    const LONGEST: usize = 300;
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.extend_from_slice(&chunk[..chunk.len().min(LONGEST - text.len())]);
        if text.len() >= LONGEST {
            break;
        }
    }
    printable(&text)
}

/// `text` on one line, without control characters.
pub(super) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

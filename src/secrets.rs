//! Masks secrets in the answers of servers.

/// Shorter values would match parts of ordinary words.
const SHORTEST: usize = 4;

/// The values of the headers that are sent. A server may repeat them in an answer, which is logged.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets in these header values: complete, and without the scheme of `authorization`.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let values = values.into_iter();
        let parts = values.flat_map(|value| [Some(value), value.split_whitespace().last()]);
        let parts = parts.flatten().filter(|part| part.len() >= SHORTEST);
        Secrets(parts.map(str::to_owned).collect())
    }

    /// Overwrites them with asterisks. The length stays the same, so that an encoded answer stays
    /// valid.
    pub(crate) fn hide(&self, text: &mut [u8]) {
        for secret in &self.0 {
            let secret = secret.as_bytes();
            let mut rest = &mut *text;
            while let Some(place) = find(rest, secret) {
                let (hidden, after) = rest[place..].split_at_mut(secret.len());
                hidden.fill(b'*');
                rest = after;
            }
        }
    }

    /// The same for a string.
    pub(crate) fn hidden(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        self.hide(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_that_a_receiver_repeats_are_masked() {
        let secrets = ["Bearer s3cr3t", "s3cr3t"].map(str::to_owned);
        let secrets = Secrets(secrets.to_vec());
        let said = "authorization: Bearer s3cr3t, s3cr3ts3cr3t and Bearer s3cr";
        let hidden = "authorization: *************, ************ and Bearer s3cr";
        assert_eq!(secrets.hidden(said), hidden);
        assert_eq!(secrets.hidden(""), "");
    }
}

//! Why a TLS connection failed, and which setting to change.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error as TlsError};

/// The names of the settings of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The setting with the server's address.
    pub(crate) address: &'static str,
    /// The setting with the trusted certificates.
    pub(crate) trusted: &'static str,
    /// The setting with the agent's own certificate, if there is one.
    pub(crate) own: Option<&'static str>,
}

/// A failure of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What is wrong.
    pub(crate) cause: String,
    /// What to do about it.
    pub(crate) hint: String,
}

/// The TLS failure that caused `error`, if any.
pub(crate) fn problem(error: &(dyn Error + 'static), names: Names) -> Option<Problem> {
    let cause = tls_error(error)?;
    let Names {
        address, trusted, ..
    } = names;
    let (cause, hint) = match cause {
        TlsError::InvalidCertificate(error) => return Some(certificate(error, names)),
        TlsError::InvalidMessage(_) => (
            "the answer is not TLS".to_owned(),
            format!(
                "the server does not use TLS on this port: correct the port in {address}, or use http:// instead of https://"
            ),
        ),
        TlsError::AlertReceived(_) => (
            format!("the server rejected the TLS connection: {cause}"),
            match names.own {
                Some(own) => format!("the server may require a client certificate: set {own}"),
                None => format!("check {address}"),
            },
        ),
        _ => (
            cause.to_string(),
            format!("check {trusted}, and the TLS settings of the server"),
        ),
    };
    Some(Problem { cause, hint })
}

fn certificate(error: &CertificateError, names: Names) -> Problem {
    let Names {
        address, trusted, ..
    } = names;
    let (cause, hint) = match error {
        CertificateError::UnknownIssuer => (
            "it is signed by an unknown authority".to_owned(),
            format!(
                "set {trusted} to a PEM file with the certificate of that authority, or with the server's own certificate if it is self-signed"
            ),
        ),
        CertificateError::BadSignature => (
            "it is not signed by the trusted authority".to_owned(),
            format!(
                "set {trusted} to a PEM file with the certificate of the authority that signed it; the trusted one has the same name, but is another one"
            ),
        ),
        CertificateError::Expired => ("it has expired".to_owned(), RENEW.to_owned()),
        CertificateError::ExpiredContext { not_after, .. } => (
            format!("it expired on {}", day(*not_after)),
            RENEW.to_owned(),
        ),
        CertificateError::NotValidYet => ("it is not valid yet".to_owned(), CLOCK.to_owned()),
        CertificateError::NotValidYetContext { not_before, .. } => (
            format!("it is not valid before {}", day(*not_before)),
            CLOCK.to_owned(),
        ),
        CertificateError::NotValidForName => (
            "it is for another host name".to_owned(),
            other_name(address),
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (
            format!(
                "it is not for {}, but for {}",
                expected.to_str(),
                names_of(presented)
            ),
            other_name(address),
        ),
        // There is no variant for this: rustls wraps webpki's error.
        other if other.to_string().contains("CaUsedAsEndEntity") => (
            "it is a certificate authority's (CA:TRUE), which cannot be used for a server"
                .to_owned(),
            format!(
                "`openssl req -x509` creates such certificates by default; add -addext basicConstraints=critical,CA:FALSE and set {trusted} to the new certificate, or sign a server certificate with this authority and set {trusted} to the authority's certificate"
            ),
        ),
        other => (
            other.to_string(),
            format!("replace the server's certificate, or check {trusted}"),
        ),
    };
    Problem {
        cause: format!("the server's certificate was rejected: {cause}"),
        hint,
    }
}

const RENEW: &str = "renew the certificate; if it is still valid, check the clock of this machine";
const CLOCK: &str = "check the clock of this machine";

fn other_name(address: &str) -> String {
    format!("set {address} to a host name of the certificate, or issue a certificate for this name")
}

/// webpki formats names as `DnsName("localhost")`.
fn names_of(presented: &[String]) -> String {
    let quoted = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    match presented {
        [] => "no host name".to_owned(),
        names => names.iter().map(quoted).collect::<Vec<_>>().join(", "),
    }
}

fn day(time: UnixTime) -> String {
    let second = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%d").to_string()
}

/// The error of rustls among the causes of `error`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // `source` of an I/O error skips the error that it wraps.
        let made_of = error.downcast_ref().and_then(io::Error::get_ref);
        next = match made_of {
            Some(made_of) => Some(made_of),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        address: "ADDRESS",
        trusted: "TRUSTED",
        own: None,
    };

    #[test]
    fn a_cause_is_found_behind_an_io_error() {
        let expired = TlsError::InvalidCertificate(CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(86_400 * 9)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(86_400)),
        });
        let problem = problem(&io::Error::other(expired), NAMES).unwrap();
        assert!(
            problem.cause.ends_with("it expired on 1970-01-02"),
            "{problem:?}"
        );
        assert_eq!(super::problem(&io::Error::other("no"), NAMES), None);
    }

    #[test]
    fn names_are_shown_without_the_library_s_words() {
        let presented = ["DnsName(\"a.example\")".to_owned(), "10.0.0.1".to_owned()];
        assert_eq!(names_of(&presented), "a.example, 10.0.0.1");
        assert_eq!(names_of(&[]), "no host name");
    }
}

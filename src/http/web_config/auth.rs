//! Who may read the endpoints: users with a password, and clients with a bearer token.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use tokio::sync::Semaphore;

/// The lowest cost of a hash that bcrypt defines.
const MIN_COST: u32 = 4;
/// The highest cost of a hash. Each step doubles the time; this one takes about 20 s.
const MAX_COST: u32 = 18;
/// How many passwords wait to be verified, in all and for one client address.
const WAITING: usize = 16;
const WAITING_PER_CLIENT: usize = 4;
/// How many accepted, and how many rejected passwords are remembered.
const REMEMBERED: usize = 128;

type Digest = Vec<u8>;

/// The credentials that are accepted.
pub(super) struct Auth {
    /// The bcrypt hash of each user's password.
    users: BTreeMap<String, String>,
    /// A hash for unknown users: their rejection takes as long as that of known ones.
    unknown: String,
    /// The digest of the bearer token.
    token: Option<Digest>,
    verified: Arc<Mutex<Verified>>,
    /// Only one password is verified at a time, since it takes a lot of CPU time.
    turn: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The digests of credentials that have been verified, so that each takes CPU time only once.
#[derive(Default)]
struct Verified {
    accepted: Recent,
    rejected: Recent,
}

/// A set that forgets the oldest items.
#[derive(Default)]
struct Recent {
    items: HashSet<Digest>,
    order: VecDeque<Digest>,
}

/// Whether a request is permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The credentials are accepted, or none are required.
    Granted,
    /// The credentials are missing or wrong.
    Denied,
    /// Too many passwords are being verified.
    Busy,
}

impl Auth {
    /// Accepts these users, by the bcrypt hashes of their passwords, and this token.
    pub(super) fn new<'a>(
        users: impl Iterator<Item = (&'a String, &'a String)>,
        token: Option<&str>,
    ) -> Result<Self, String> {
        let mut accepted = BTreeMap::new();
        let mut highest = 0;
        for (name, hash) in users {
            if name.contains(':') {
                return Err(format!(
                    "basic_auth_users: the name {name:?} contains a colon, which basic authentication does not allow"
                ));
            }
            // The parser divides it by bytes.
            let parts = hash.is_ascii().then(|| HashParts::from_str(hash).ok());
            match parts.flatten().map(|parts| parts.get_cost()) {
                Some(cost) if (MIN_COST..=MAX_COST).contains(&cost) => highest = highest.max(cost),
                Some(cost) => {
                    return Err(format!(
                        "basic_auth_users.{name}: the cost of the hash is {cost}, and must be from {MIN_COST} to {MAX_COST}"
                    ));
                }
                None => {
                    return Err(format!(
                        "basic_auth_users.{name}: it is not a bcrypt hash; `htpasswd -nBC 10 {name}` creates one"
                    ));
                }
            }
            accepted.insert(name.clone(), hash.clone());
        }
        Ok(Auth {
            users: accepted,
            unknown: format!("$2b${highest:02}${}", ".".repeat(53)),
            token: token.map(|token| sha256(&[token.as_bytes()])),
            verified: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: Arc::default(),
        })
    }

    /// Whether credentials are required.
    pub(super) fn is_required(&self) -> bool {
        self.has_token() || self.users() > 0
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The number of users.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    /// Whether a client with this `Authorization` header may read the endpoints.
    pub(super) async fn check(&self, authorization: Option<&[u8]>, client: IpAddr) -> Verdict {
        if !self.is_required() {
            return Verdict::Granted;
        }
        let Some((scheme, value)) = authorization.and_then(split) else {
            return Verdict::Denied;
        };
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return match &self.token {
                Some(token) if verify_slices_are_equal(token, &sha256(&[value])).is_ok() => {
                    Verdict::Granted
                }
                _ => Verdict::Denied,
            };
        }
        match basic(scheme, value).filter(|_| !self.users.is_empty()) {
            Some((user, password)) => self.check_password(&user, password, client).await,
            None => Verdict::Denied,
        }
    }

    async fn check_password(&self, user: &str, password: Vec<u8>, client: IpAddr) -> Verdict {
        let known = self.users.get(user);
        let hash = known.unwrap_or(&self.unknown).clone();
        // The lengths of the parts are part of the digest, so that they cannot be confused.
        let key = sha256(&[user.as_bytes(), hash.as_bytes(), &password]);
        if let Some(verdict) = self.remembered(&key) {
            return verdict;
        }
        let Some(_waiting) = Waiting::new(&self.waiting, client) else {
            return Verdict::Busy;
        };
        // The semaphore is never closed.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        // Another request with the same credentials may have been waiting.
        if let Some(verdict) = self.remembered(&key) {
            return verdict;
        }
        let (is_known, verified) = (known.is_some(), Arc::clone(&self.verified));
        let verify = move || {
            // Verification continues after the client has disconnected, and so does its turn: the
            // next request finds the result.
            let _turn = turn;
            let is_granted = bcrypt::verify(password, &hash).unwrap_or(false) && is_known;
            let mut verified = verified.lock().unwrap_or_else(PoisonError::into_inner);
            match is_granted {
                true => verified.accepted.insert(key),
                false => verified.rejected.insert(key),
            }
            is_granted
        };
        match tokio::task::spawn_blocking(verify).await {
            Ok(true) => Verdict::Granted,
            _ => Verdict::Denied,
        }
    }

    fn remembered(&self, key: &Digest) -> Option<Verdict> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.accepted.items.contains(key) {
            return Some(Verdict::Granted);
        }
        let is_rejected = verified.rejected.items.contains(key);
        is_rejected.then_some(Verdict::Denied)
    }
}

impl Recent {
    fn insert(&mut self, item: Digest) {
        if !self.items.insert(item.clone()) {
            return;
        }
        self.order.push_back(item);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.items.remove(&oldest);
        }
    }
}

/// A request that waits until its password is verified.
struct Waiting {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl Waiting {
    /// `None` if too many requests wait.
    fn new(all: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr) -> Option<Self> {
        let mut waiting = all.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = waiting.values().sum();
        let own = waiting.get(&client).copied().unwrap_or_default();
        if in_all >= WAITING || own >= WAITING_PER_CLIENT {
            return None;
        }
        waiting.insert(client, own.saturating_add(1));
        Some(Waiting {
            all: Arc::clone(all),
            client,
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get_mut(&self.client) {
            Some(count) if *count > 1 => *count = count.saturating_sub(1),
            _ => {
                waiting.remove(&self.client);
            }
        }
    }
}

/// The scheme and the value of an `Authorization` header.
fn split(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = header.iter().position(|byte| *byte == b' ')?;
    let (scheme, value) = header.split_at_checked(space)?;
    Some((scheme, value.trim_ascii()))
}

/// The user and the password of basic authentication.
/// <https://www.rfc-editor.org/rfc/rfc7617>
fn basic(scheme: &[u8], value: &[u8]) -> Option<(String, Vec<u8>)> {
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let decoded = STANDARD.decode(value).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    let user = String::from_utf8(user.to_vec()).ok()?;
    Some((user, password.get(1..)?.to_vec()))
}

fn sha256(parts: &[&[u8]]) -> Digest {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&part.len().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    digest(&SHA256, &bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn hash(password: &str, cost: u32) -> String {
        let salt = [7; 16];
        bcrypt::hash_with_salt(password, cost, salt)
            .unwrap()
            .format_for_version(bcrypt::Version::TwoY)
    }

    fn auth(users: &[(&str, String)], token: Option<&str>) -> Auth {
        let users: BTreeMap<_, _> = users
            .iter()
            .map(|(name, hash)| ((*name).to_owned(), hash.clone()))
            .collect();
        Auth::new(users.iter(), token).ok().unwrap()
    }

    fn with_password(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    async fn check(auth: &Auth, header: &str) -> Verdict {
        auth.check(Some(header.as_bytes()), CLIENT).await
    }

    #[tokio::test]
    async fn without_users_and_token_everything_is_granted() {
        let auth = auth(&[], None);
        assert_eq!(auth.check(None, CLIENT).await, Verdict::Granted);
        assert_eq!(check(&auth, "Basic ???").await, Verdict::Granted);
    }

    #[tokio::test]
    async fn a_password_that_was_verified_after_the_client_left_is_remembered() {
        let auth = auth(&[("alice", hash("secret", 8))], None);
        let header = with_password("alice", "secret");
        // The client does not wait.
        let left = futures_util::FutureExt::now_or_never(check(&auth, &header));
        assert_eq!(left, None);
        let turn = auth.turn.acquire().await;
        drop(turn);
        let now = futures_util::FutureExt::now_or_never(check(&auth, &header));
        assert_eq!(now, Some(Verdict::Granted));
    }

    #[tokio::test]
    async fn a_hash_that_nobody_can_use_is_refused() {
        let refused = |name: &str, hash: &str| {
            let users = BTreeMap::from([(name.to_owned(), hash.to_owned())]);
            Auth::new(users.iter(), None).err().unwrap_or_default()
        };
        let hash = hash("secret", 4);
        assert_eq!(refused("alice", &hash), "");
        assert!(refused("alice", &hash.replace("$04$", "$03$")).contains("from 4 to 18"));
        assert!(refused("alice", &hash.replace("$04$", "$19$")).contains("from 4 to 18"));
        assert!(refused("al:ice", &hash).contains("colon"));
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_user_is_granted() {
        let auth = auth(
            &[("alice", hash("pass:word", 4)), ("bob", hash("other", 4))],
            None,
        );
        for (header, expected) in [
            (with_password("alice", "pass:word"), Verdict::Granted),
            (
                with_password("alice", "pass:word").replace("Basic", "bAsIc"),
                Verdict::Granted,
            ),
            (with_password("bob", "other"), Verdict::Granted),
            (with_password("alice", "other"), Verdict::Denied),
            (with_password("alice", ""), Verdict::Denied),
            (with_password("carol", "other"), Verdict::Denied),
            (with_password("", ""), Verdict::Denied),
            ("Basic".to_owned(), Verdict::Denied),
            ("Basic ".to_owned(), Verdict::Denied),
            ("Basic !!!".to_owned(), Verdict::Denied),
            (
                format!("Basic {}", STANDARD.encode("alice")),
                Verdict::Denied,
            ),
            (
                format!("Basic {}", STANDARD.encode(b"\xff:a")),
                Verdict::Denied,
            ),
            ("Bearer pass:word".to_owned(), Verdict::Denied),
            (String::new(), Verdict::Denied),
        ] {
            // The second time, the result is remembered.
            for _ in 0..2 {
                assert_eq!(check(&auth, &header).await, expected, "{header}");
            }
        }
        assert_eq!(auth.check(None, CLIENT).await, Verdict::Denied);
    }

    #[tokio::test]
    async fn the_token_is_granted_with_and_without_users() {
        for users in [&[][..], &[("alice", hash("password", 4))]] {
            let auth = auth(users, Some("token"));
            assert_eq!(check(&auth, "Bearer token").await, Verdict::Granted);
            assert_eq!(check(&auth, "bearer  token").await, Verdict::Granted);
            for wrong in [
                "Bearer",
                "Bearer ",
                "Bearer toke",
                "Bearer token2",
                "Basic token",
            ] {
                assert_eq!(check(&auth, wrong).await, Verdict::Denied, "{wrong}");
            }
            let alice = check(&auth, &with_password("alice", "password")).await;
            assert_eq!(alice == Verdict::Granted, !users.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_verified_password_takes_no_time_again() {
        let auth = auth(&[("alice", hash("password", 8))], None);
        let header = with_password("alice", "password");
        let start = Instant::now();
        assert_eq!(check(&auth, &header).await, Verdict::Granted);
        let first = start.elapsed();
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(check(&auth, &header).await, Verdict::Granted);
        }
        assert!(
            start.elapsed() < first * 20,
            "{first:?}, {:?}",
            start.elapsed()
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn guesses_of_one_client_do_not_keep_another_from_its_turn() {
        let auth = Arc::new(auth(&[("alice", hash("password", 8))], None));
        let mut guesses = tokio::task::JoinSet::new();
        for number in 0..100 {
            let auth = Arc::clone(&auth);
            let header = with_password("alice", &format!("guess {number}"));
            guesses.spawn(async move { check(&auth, &header).await });
        }
        let other = IpAddr::from([192, 0, 2, 1]);
        let header = with_password("alice", "password");
        let verdict = auth.check(Some(header.as_bytes()), other).await;
        assert_eq!(verdict, Verdict::Granted);
        let verdicts = guesses.join_all().await;
        assert!(!verdicts.contains(&Verdict::Granted));
        assert!(verdicts.contains(&Verdict::Denied));
        assert!(verdicts.contains(&Verdict::Busy));
        assert!(auth.waiting.lock().unwrap().is_empty());
    }

    #[test]
    fn hashes_of_unknown_users_cost_as_much_as_those_of_known_ones() {
        let auth = auth(&[("a", hash("x", 4)), ("b", hash("x", 6))], None);
        let unknown = HashParts::from_str(&auth.unknown).unwrap();
        assert_eq!(unknown.get_cost(), 6);
        assert!(!bcrypt::verify("x", &auth.unknown).unwrap());
    }

    #[test]
    fn an_unusable_hash_is_refused_without_showing_it() {
        let expensive = hash("x", 4).replacen("$04$", "$31$", 1);
        for (hash, part) in [
            ("s3cr3t", "not a bcrypt hash"),
            ("$2y$10$s3cr3t", "not a bcrypt hash"),
            (expensive.as_str(), "the cost of the hash is 31"),
        ] {
            let users = BTreeMap::from([("alice".to_owned(), hash.to_owned())]);
            let error = Auth::new(users.iter(), None).err().unwrap();
            assert!(error.contains(part) && error.contains("alice"), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn rejected_passwords_do_not_fill_the_memory() {
        let mut recent = Recent::default();
        for number in 0..10 * REMEMBERED {
            recent.insert(sha256(&[&number.to_be_bytes()]));
        }
        assert_eq!(recent.items.len(), REMEMBERED);
        assert_eq!(recent.order.len(), REMEMBERED);
    }
}

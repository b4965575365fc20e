//! The open connections. If there are too many, one of them is closed for each new one, so that
//! idle and slow clients cannot keep a probe or a scrape away.
//!
//! The client address with the most connections loses one: the one whose client has asked for
//! nothing for the longest time.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::activity::Activity;

/// How long a connection is safe: otherwise, many clients that reconnect immediately would close
/// each other's connections before any of them is answered.
const SAFE: Duration = Duration::from_millis(100);

/// All open connections.
pub(super) struct Connections {
    /// One permit for each further connection.
    places: Arc<Semaphore>,
    open: Arc<Mutex<BTreeMap<u64, Open>>>,
    next: u64,
}

struct Open {
    network: IpAddr,
    activity: Arc<Activity>,
}

/// The place of an open connection. The next connection can have it once this is dropped.
pub(super) struct Place {
    number: u64,
    open: Arc<Mutex<BTreeMap<u64, Open>>>,
    activity: Arc<Activity>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// At most this many.
    pub(super) fn new(limit: usize) -> Self {
        Connections {
            places: Arc::new(Semaphore::new(limit)),
            open: Arc::default(),
            next: 0,
        }
    }

    /// A place for a new connection from `peer`. If all are taken, another connection is closed.
    pub(super) async fn admit(&mut self, peer: IpAddr) -> Place {
        let network = network(peer);
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => self.freed(network).await,
        };
        let activity = Arc::new(Activity::default());
        let open = Open {
            network,
            activity: Arc::clone(&activity),
        };
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, open);
        Place {
            number,
            open: Arc::clone(&self.open),
            activity,
            _permit: permit,
        }
    }

    /// Closes the connection that has been idle for the longest time.
    pub(super) fn close_one(&self) {
        if let Some(victim) = self.victim(None) {
            victim.close();
        }
    }

    /// The place of a connection that ends, or is closed if none ends soon.
    async fn freed(&self, newcomer: IpAddr) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        let freed = async { Arc::clone(&self.places).acquire_owned().await.ok() };
        tokio::pin!(freed);
        let now = Instant::now();
        let safe_until = self.victim(Some(newcomer)).map(|victim| victim.spared());
        let safe_until = safe_until.map_or(now, |spared| spared.min(now) + SAFE);
        if safe_until > now {
            tokio::select! {
                permit = &mut freed => return permit,
                () = sleep_until(safe_until) => {}
            }
        }
        if let Some(victim) = self.victim(Some(newcomer)) {
            victim.close();
        }
        freed.await
    }

    /// The connection to close in favor of `newcomer`.
    fn victim(&self, newcomer: Option<IpAddr>) -> Option<Arc<Activity>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.values().filter(|open| !open.activity.is_closed());
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for network in open.clone().map(|open| open.network).chain(newcomer) {
            let count = counts.entry(network).or_default();
            *count = count.saturating_add(1);
        }
        let most = counts.values().max()?;
        open.filter(|open| counts.get(&open.network) == Some(most))
            .min_by_key(|open| open.activity.spared())
            .map(|open| Arc::clone(&open.activity))
    }
}

impl Place {
    /// What the connection does.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.number);
    }
}

/// The addresses that one client can have: a single IPv4 address, or a /64 of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 4;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// A task that has the place until it is closed, as that of a connection.
    fn occupy(place: Place) -> Arc<Activity> {
        let activity = Arc::clone(place.activity());
        tokio::spawn(async move { place.activity().closed().await });
        activity
    }

    /// Connections from these addresses, each a second older than the next.
    async fn opened(connections: &mut Connections, addresses: &[u8]) -> Vec<Arc<Activity>> {
        let mut all: Vec<Arc<Activity>> = Vec::new();
        for last in addresses {
            age(&all, 1);
            all.push(occupy(connections.admit(address(*last)).await));
        }
        age(&all, 1);
        all
    }

    fn age(all: &[Arc<Activity>], seconds: u64) {
        for activity in all {
            activity.age(Duration::from_secs(seconds));
        }
    }

    /// Which of them are closed.
    fn closed(all: &[Arc<Activity>]) -> Vec<bool> {
        all.iter().map(|activity| activity.is_closed()).collect()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room() {
        let mut connections = Connections::new(LIMIT);
        let mut all = opened(&mut connections, &[1; LIMIT]).await;
        // The first one is in use.
        drop(all[0].answering());
        all[0].flushed();
        all.push(occupy(connections.admit(address(1)).await));
        assert_eq!(closed(&all), [false, true, false, false, false]);
    }

    #[tokio::test]
    async fn the_address_with_the_most_connections_loses_one() {
        let mut connections = Connections::new(LIMIT);
        let mut all = opened(&mut connections, &[2, 1, 1, 1]).await;
        all.push(occupy(connections.admit(address(3)).await));
        assert_eq!(closed(&all), [false, true, false, false, false]);
        // Even if it is the one that wants another.
        all.push(occupy(connections.admit(address(1)).await));
        assert_eq!(closed(&all), [false, true, true, false, false, false]);
    }

    #[tokio::test]
    async fn clients_that_do_not_read_make_room_for_new_ones() {
        let mut connections = Connections::new(LIMIT);
        let mut all = opened(&mut connections, &[1; LIMIT - 1]).await;
        let answers: Vec<_> = all.iter().map(Activity::answering).collect();
        age(&all[1..], 59);
        age(&all[..1], 60);
        // The new one has the last place, and keeps it although it has not asked for anything yet.
        all.push(occupy(connections.admit(address(1)).await));
        all.push(occupy(connections.admit(address(1)).await));
        assert_eq!(closed(&all), [true, false, false, false, false]);
        drop(answers);
    }

    #[tokio::test]
    async fn an_answer_that_has_just_begun_is_spared() {
        let mut connections = Connections::new(LIMIT);
        let mut all = opened(&mut connections, &[1; LIMIT]).await;
        let answers: Vec<_> = all[..3].iter().map(Activity::answering).collect();
        all.push(occupy(connections.admit(address(1)).await));
        assert_eq!(closed(&all), [false, false, false, true, false]);
        drop(answers);
    }

    #[tokio::test]
    async fn a_storm_of_connections_leaves_each_some_time() {
        let mut connections = Connections::new(LIMIT);
        let start = Instant::now();
        for _ in 0..10 * LIMIT {
            occupy(connections.admit(address(1)).await);
        }
        assert!(start.elapsed() >= SAFE * 8, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_ends() {
        let mut connections = Connections::new(1);
        drop(connections.admit(address(1)).await);
        let place = connections.admit(address(1)).await;
        assert!(!place.activity().is_closed());
        assert_eq!(connections.open.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_client() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:2"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
        assert_ne!(parse("192.0.2.1"), parse("192.0.2.2"));
    }
}

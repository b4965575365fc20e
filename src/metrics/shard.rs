//! Sharding: several agents read one workspace, and each exports a part of its series.
//!
//! A series that names a flow belongs to the shard that the names of its flow and deployment hash
//! to. Any other series of Prefect belongs to the first shard. Therefore, the shards of a workspace
//! add up to its series, and none of them needs to know the others.

use uuid::Uuid;

use super::Family;
use super::compatible::{DEPLOYMENT_NAME, FLOW_NAME};
use crate::core::tally::Label;
use crate::settings::Shard;

impl Shard {
    /// Whether this shard may have series of `family`. Every shard has those of the agent itself.
    pub(super) fn has_family(self, family: &Family) -> bool {
        self.index == 0 || family.is_of_agent() || family.attributes.contains(&FLOW_NAME)
    }

    /// Whether this shard has the series of `family` with these values of its attributes.
    pub(super) fn has_series(self, family: &Family, values: &[Label]) -> bool {
        match family.value(values, FLOW_NAME) {
            Some(flow) => {
                let deployment = family.value(values, DEPLOYMENT_NAME);
                let deployment = deployment.map_or("", |deployment| deployment);
                self.index == of_names(flow, deployment, self.count)
            }
            None => self.has_family(family),
        }
    }
}

/// The shard, of `count`, that series with these names belong to. It is the same on every machine
/// and in every version.
fn of_names(flow: &str, deployment: &str, count: u32) -> u32 {
    // A name cannot contain this character in PostgreSQL.
    let names = format!("{flow}\0{deployment}");
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, names.as_bytes()).as_u128();
    let shard = hash.checked_rem(u128::from(count)).unwrap_or_default();
    u32::try_from(shard).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::catalogue;

    #[test]
    fn each_series_belongs_to_one_shard() {
        let count = 4;
        let shards = (0..count).map(|index| Shard { index, count });
        for family in catalogue().filter(|family| !family.is_of_agent()) {
            let mut sizes = [0; 4];
            for number in 0..200 {
                let name = |attribute: &&str| Label::from(format!("{attribute}-{number}"));
                let values: Vec<_> = family.attributes.iter().map(name).collect();
                let owners: Vec<_> = shards
                    .clone()
                    .filter(|shard| shard.has_series(family, &values))
                    .collect();
                assert_eq!(owners.len(), 1, "{} {owners:?}", family.name);
                assert!(owners[0].has_family(family), "{}", family.name);
                sizes[owners[0].index as usize] += 1;
            }
            match family.attributes.contains(&FLOW_NAME) {
                true => assert!(sizes.iter().all(|size| *size > 20), "{sizes:?}"),
                false => assert_eq!(sizes, [200, 0, 0, 0], "{}", family.name),
            }
        }
    }

    #[test]
    fn series_stay_in_their_shard_in_later_versions() {
        let shards = ["a", "b", "c", "d", "e"].map(|flow| of_names(flow, "nightly", 4));
        assert_eq!(shards, [2, 2, 2, 1, 0]);
    }
}

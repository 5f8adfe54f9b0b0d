//! What a request names more than once: answered once, or refused, so that no answer (and no work for one) outgrows its question.
//!
//! Requests carry lists where maps are meant, and a partition of four bytes may be answered by kilobytes. What each API makes of a
//! repetition is what Kafka 4.3 makes of it, where that is bounded and loses nothing; the files of the APIs say so.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// One partition as it was asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<P> {
    pub last: P,
    /// It was asked for before.
    pub twice: bool,
}

/// Each topic once and each of its partitions once, in the order in which they were first named.
pub fn merged<K: Eq + Hash + Clone, P>(
    topics: impl IntoIterator<Item = (K, Vec<P>)>,
    index: impl Fn(&P) -> i32,
) -> Vec<(K, Vec<Named<P>>)> {
    let mut merged: Vec<(K, Vec<Named<P>>)> = Vec::new();
    let mut places: HashMap<K, (usize, BTreeMap<i32, usize>)> = HashMap::new();
    for (key, partitions) in topics {
        let (at, held) = places.entry(key.clone()).or_insert_with(|| {
            merged.push((key, Vec::with_capacity(partitions.len())));
            (merged.len() - 1, BTreeMap::new())
        });
        let Some((_, named)) = merged.get_mut(*at) else { continue };
        for partition in partitions {
            match held.entry(index(&partition)) {
                Entry::Vacant(place) => {
                    place.insert(named.len());
                    named.push(Named { last: partition, twice: false });
                }
                Entry::Occupied(place) => named[*place.get()] = Named { last: partition, twice: true },
            }
        }
    }
    merged
}

/// The first of each kind, in order.
pub fn distinct<T, K: Ord>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// Keys that come more than once.
pub fn twice<K: Ord + Clone>(keys: impl IntoIterator<Item = K>) -> BTreeSet<K> {
    let mut seen = BTreeSet::new();
    keys.into_iter().filter(|key| !seen.insert(key.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_once_whatever_the_request_repeats() {
        let asked = [("a", vec![(1, 'p'), (0, 'q'), (1, 'r')]), ("b", vec![(1, 's')]), ("a", vec![(0, 't'), (2, 'u')]), ("c", vec![])];
        let named = |last, twice| Named { last, twice };
        let a = vec![named((1, 'r'), true), named((0, 't'), true), named((2, 'u'), false)];
        assert_eq!(merged(asked, |partition| partition.0), [("a", a), ("b", vec![named((1, 's'), false)]), ("c", vec![])]);
    }

    #[test]
    fn what_comes_twice_is_told_from_what_comes_once() {
        assert_eq!(twice(["a", "b", "a", "a"]), BTreeSet::from(["a"]));
        assert_eq!(distinct([3, 1, 3, 2, 1], |item| *item), [3, 1, 2]);
    }
}

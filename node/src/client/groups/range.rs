//! Kafka's range rule: each member gets neighbouring partitions of a topic, the first ones one more where it does not come out even.

/// Of one topic, to the members that read it.
pub(super) fn share<M: Ord + Clone>(mut partitions: Vec<i32>, members: &[M]) -> Vec<(M, Vec<i32>)> {
    partitions.sort_unstable();
    let mut members = members.to_vec();
    members.sort();
    members.dedup();
    let (each, more) = match members.len() {
        0 => return Vec::new(),
        count => (partitions.len() / count, partitions.len() % count),
    };
    let mut rest = partitions.into_iter();
    let share = |(i, member)| (member, rest.by_ref().take(each + usize::from(i < more)).collect());
    members.into_iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn every_partition_has_one_reader_and_neighbours_stay_together() {
        assert_eq!(share(vec![2, 0, 1, 3, 4], &["b", "a"]), [("a", vec![0, 1, 2]), ("b", vec![3, 4])]);
        assert_eq!(share(vec![0], &["b", "a"]), [("a", vec![0]), ("b", vec![])]);
        assert_eq!(share::<&str>(vec![0], &[]), []);
    }
}

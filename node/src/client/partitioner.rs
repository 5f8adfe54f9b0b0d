//! Which partition a record goes to: by its key as Kafka's Java client decides, so that both agree where a key lives.

/// The Java client's murmur2 over the key's bytes.
pub fn murmur2(key: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ (key.len() as u32);
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(MULTIPLIER);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition of a key among `partitions`, which is at least 1.
pub fn of_key(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// Where records without a key go: one partition until so many bytes, then the next.
#[derive(Debug)]
pub struct Sticky {
    at: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Sticky {
    pub fn new(first: usize, bytes_max: usize) -> Sticky {
        Sticky { at: first, bytes: 0, bytes_max }
    }

    pub fn next(&mut self, record_bytes: usize, partitions: usize) -> usize {
        if self.bytes >= self.bytes_max {
            self.bytes = 0;
            self.at = self.at.wrapping_add(1);
        }
        self.bytes += record_bytes;
        self.at % partitions.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn keyless_records_stay_together_and_then_move_on() {
        let mut sticky = Sticky::new(1, 100);
        let picked: Vec<_> = (0..6).map(|_| sticky.next(50, 3)).collect();
        assert_eq!(picked, [1, 1, 2, 2, 0, 0]);
    }
}

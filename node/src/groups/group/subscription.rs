//! Which topics a Kafka consumer's subscription names (`ConsumerProtocolSubscription`, every version begins alike).

use bytes::Buf;

/// None where the bytes are something else.
pub fn topics(mut metadata: &[u8]) -> Option<Vec<String>> {
    let _version = metadata.try_get_i16().ok()?;
    let count = metadata.try_get_i32().ok()?;
    // Nothing is allocated for what the count merely claims.
    let mut topics = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        let (name, rest) = metadata.split_at_checked(length)?;
        topics.push(std::str::from_utf8(name).ok()?.to_owned());
        metadata = rest;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::topics;

    #[test]
    fn the_topics_of_a_subscription_are_read_and_its_rest_is_not() {
        assert_eq!(topics(b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0"), Some(vec!["a".to_owned(), "bc".to_owned()]));
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff\0\x01a"), None, "a count beyond the bytes");
        assert_eq!(topics(b"\0\0\0\0\0\x01\xff\xffa"), None, "a negative length");
        assert_eq!(topics(b""), None);
    }
}

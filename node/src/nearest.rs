//! What was probably meant: the known name nearest to a mistyped one.

/// Longer names are no typing errors, and their distance is not worth computing.
const NAME_BYTES_MAX: usize = 64;

/// The known name nearest to `name` by edit distance; None where none is near enough to be worth suggesting.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let near_enough = (name.chars().count() / 3).max(2);
    let (distance, found) = known.into_iter().map(|known| (distance(name, known), known)).min()?;
    (distance <= near_enough).then_some(found)
}

/// Levenshtein's distance, one row at a time.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (removed, here) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = removed + 1;
        for (column, there) in to.iter().enumerate() {
            let changed = diagonal + usize::from(here != *there);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        assert_eq!(nearest("retention.sm", ["segment.bytes", "retention.ms", "retention.bytes"]), Some("retention.ms"));
        assert_eq!(nearest("listn", ["listen", "advertised"]), Some("listen"));
    }

    #[test]
    fn nothing_near_suggests_nothing() {
        assert_eq!(nearest("banana", ["listen", "advertised"]), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest(&"l".repeat(NAME_BYTES_MAX + 1), ["listen"]), None);
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!([distance("kitten", "sitting"), distance("", "abc"), distance("abc", ""), distance("a", "a")], [3, 3, 3, 0]);
    }
}

//! What a request's bytes must look like before anything is allocated for them.
//!
//! The codec crate allocates as many elements as an array claims to have. Each API therefore states the shape of its request, and
//! [`check`] walks the bytes first: every length and count must fit what remains.

/// The type of one field, by the names of Kafka's message schemas.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// So many bytes: bool and int8 1, int16 2, int32 4, int64 8, uuid 16.
    Fixed(usize),
    /// A string, nullable or not.
    Text,
    /// Bytes, nullable or not.
    Bytes,
    /// An array of structs, nullable or not.
    Array(&'static [Field]),
    /// An array of values that are no structs.
    Values(&'static Shape),
    /// A struct in place, nullable ones led by a byte are not supported.
    Struct(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    since: i16,
    until: i16,
    pub(super) shape: Shape,
}

impl Field {
    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

/// A field of every version.
pub const fn always(shape: Shape) -> Field {
    Field { since: 0, until: i16::MAX, shape }
}

/// A field from this version on.
pub const fn since(version: i16, shape: Shape) -> Field {
    Field { since: version, until: i16::MAX, shape }
}

/// A field up to and including this version.
pub const fn until(version: i16, shape: Shape) -> Field {
    Field { since: 0, until: version, shape }
}

/// A field of the versions from the first to the last, both included.
pub const fn between(first: i16, last: i16, shape: Shape) -> Field {
    Field { since: first, until: last, shape }
}

/// Most elements of one request, all arrays and tagged fields together: a decoded one takes up to some two hundred bytes however few it came in,
/// and is answered. Beyond what any client asks about a region at once.
pub const ELEMENTS_MAX: usize = 1 << 18;

/// The bytes are not a request of this shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is cut short or claims more than it holds")]
pub struct Misshapen;

/// Walks a request's body: every length and count must fit. What follows the last field is ignored, as Kafka does, because librdkafka sends
/// such: it asks for the Metadata of all topics with three bytes to spare.
pub fn check(fields: &[Field], version: i16, flexible: bool, body: &[u8]) -> Result<(), Misshapen> {
    let mut walk = Walk { rest: body, version, flexible, elements: 0 };
    walk.fields(fields)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn skip(&mut self, bytes: usize) -> Result<(), Misshapen> {
        self.rest = self.rest.get(bytes..).ok_or(Misshapen)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Misshapen> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Misshapen)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Five bytes at most, as the codec reads it.
    fn varint(&mut self) -> Result<usize, Misshapen> {
        let mut value = 0u64;
        for shift in 0..5 {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok().filter(|value| u32::try_from(*value).is_ok()).ok_or(Misshapen);
            }
        }
        Err(Misshapen)
    }

    /// A length or count: compact ones are one more than meant, and 0 is null. `wide` is the size of the plain form.
    fn length(&mut self, wide: bool) -> Result<usize, Misshapen> {
        let plain = match (self.flexible, wide) {
            (true, _) => return Ok(self.varint()?.saturating_sub(1)),
            (false, true) => i64::from(i32::from_be_bytes(self.take()?)),
            (false, false) => i64::from(i16::from_be_bytes(self.take()?)),
        };
        match plain {
            -1 => Ok(0),
            length => usize::try_from(length).map_err(|_| Misshapen),
        }
    }

    /// Every element takes at least one byte of what remains.
    fn count(&mut self) -> Result<usize, Misshapen> {
        let count = self.length(true)?;
        self.count_in(count)?;
        Ok(count)
    }

    fn count_in(&mut self, elements: usize) -> Result<(), Misshapen> {
        self.elements = self.elements.saturating_add(elements);
        if elements <= self.rest.len() && self.elements <= ELEMENTS_MAX { Ok(()) } else { Err(Misshapen) }
    }

    fn shape(&mut self, shape: &Shape) -> Result<(), Misshapen> {
        match shape {
            Shape::Fixed(bytes) => self.skip(*bytes),
            Shape::Text => {
                let length = self.length(false)?;
                self.skip(length)
            }
            Shape::Bytes => {
                let length = self.length(true)?;
                self.skip(length)
            }
            Shape::Array(fields) => {
                let count = self.count()?;
                (0..count).try_for_each(|_| self.fields(fields))
            }
            Shape::Values(shape) => {
                let count = self.count()?;
                (0..count).try_for_each(|_| self.shape(shape))
            }
            Shape::Struct(fields) => self.fields(fields),
        }
    }

    fn fields(&mut self, fields: &[Field]) -> Result<(), Misshapen> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.shape(&field.shape)?;
        }
        if self.flexible {
            let tagged = self.varint()?;
            self.count_in(tagged)?;
            for _ in 0..tagged {
                self.varint()?;
                let length = self.varint()?;
                self.skip(length)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &[Field] = &[always(Shape::Text), always(Shape::Array(&[always(Shape::Text), since(1, Shape::Fixed(4))]))];

    #[test]
    fn a_body_of_the_shape_passes_and_one_byte_less_does_not() {
        let plain = b"\0\x02ab\0\0\0\x01\0\x01c\0\0\0\x07";
        assert_eq!(check(GROUP, 1, false, plain), Ok(()));
        assert_eq!(check(GROUP, 1, false, &plain[..plain.len() - 1]), Err(Misshapen));
        assert_eq!(check(GROUP, 1, false, &[plain.as_slice(), b"x"].concat()), Ok(()), "one more is ignored");
        let compact = b"\x03ab\x02\x02c\0\0\0\x07\0\0";
        assert_eq!(check(GROUP, 1, true, compact), Ok(()));
    }

    #[test]
    fn a_claim_of_more_than_remains_is_refused() {
        assert_eq!(check(GROUP, 1, false, b"\0\0\x7f\xff\xff\xff"), Err(Misshapen));
        assert_eq!(check(GROUP, 1, true, b"\x01\xff\xff\xff\xff\x0f"), Err(Misshapen));
        assert_eq!(check(GROUP, 1, true, b"\xff\xff\xff\xff\xff\xff"), Err(Misshapen));
        assert_eq!(check(GROUP, 1, false, b"\x80\0"), Err(Misshapen), "a length below null");
    }

    #[test]
    fn more_elements_than_a_region_can_be_asked_about_are_refused_in_one_array_or_in_many() {
        const VALUES: &[Field] = &[always(Shape::Array(&[always(Shape::Values(&Shape::Fixed(4)))]))];
        let asked = |topics: usize, partitions: usize| {
            let topic = [&(partitions as i32).to_be_bytes()[..], &vec![0; 4 * partitions]].concat();
            [&(topics as i32).to_be_bytes()[..], &topic.repeat(topics)].concat()
        };
        assert_eq!(check(VALUES, 0, false, &asked(1, ELEMENTS_MAX - 1)), Ok(()));
        assert_eq!(check(VALUES, 0, false, &asked(1, ELEMENTS_MAX)), Err(Misshapen));
        assert_eq!(check(VALUES, 0, false, &asked(2, ELEMENTS_MAX / 2)), Err(Misshapen));
        let tagged = [&[1, 0x80, 0x80, 0x20][..], &[0; 2 << 19]].concat();
        assert_eq!(check(VALUES, 0, true, &tagged), Err(Misshapen), "tagged fields");
    }
}

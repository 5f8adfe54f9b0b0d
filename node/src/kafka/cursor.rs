//! Reads Kafka's primitive types from bytes that may lie: every length is held against what remains before it is believed.

use std::ops::Range;

use uuid::Uuid;

use super::shape::ELEMENTS_MAX;

/// The bytes end before what they announce, or announce something impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cut short, or a length that does not fit")]
pub struct Cut;

/// A place in a request. `flexible` chooses between compact and plain lengths. Arrays hold at most [`ELEMENTS_MAX`] elements, all together.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    flexible: bool,
    elements: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], flexible: bool) -> Cursor<'a> {
        Cursor { bytes, at: 0, flexible, elements: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let taken = *self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Cut)?;
        self.at += N;
        Ok(taken)
    }

    pub fn i8(&mut self) -> Result<i8, Cut> {
        self.take().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Cut> {
        self.take().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Cut> {
        self.take().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Cut> {
        self.take().map(i64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<Uuid, Cut> {
        self.take().map(Uuid::from_bytes)
    }

    fn varint(&mut self) -> Result<u32, Cut> {
        let mut value = 0u64;
        for shift in 0..5 {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Cut);
            }
        }
        Err(Cut)
    }

    fn slice(&mut self, length: usize) -> Result<Range<usize>, Cut> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(Cut)?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    /// None is null. Compact lengths are one more than meant.
    fn length(&mut self, plain: impl FnOnce(&mut Self) -> Result<i64, Cut>) -> Result<Option<usize>, Cut> {
        let length = if self.flexible { i64::from(self.varint()?) - 1 } else { plain(self)? };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Cut),
        }
    }

    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, Cut> {
        let Some(length) = self.length(|cursor| cursor.i16().map(i64::from))? else { return Ok(None) };
        let range = self.slice(length)?;
        std::str::from_utf8(&self.bytes[range]).map(Some).map_err(|_| Cut)
    }

    pub fn string(&mut self) -> Result<&'a str, Cut> {
        self.nullable_string()?.ok_or(Cut)
    }

    /// Where the bytes lie in what this cursor reads.
    pub fn nullable_bytes(&mut self) -> Result<Option<Range<usize>>, Cut> {
        let Some(length) = self.length(|cursor| cursor.i32().map(i64::from))? else { return Ok(None) };
        self.slice(length).map(Some)
    }

    /// The elements of an array (0 for null), each of which takes at least `bytes_min` bytes of what remains.
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, Cut> {
        Ok(self.nullable_count(bytes_min)?.unwrap_or(0))
    }

    /// The same, where null is not empty.
    pub fn nullable_count(&mut self, bytes_min: usize) -> Result<Option<usize>, Cut> {
        let Some(count) = self.length(|cursor| cursor.i32().map(i64::from))? else { return Ok(None) };
        self.elements = self.elements.saturating_add(count);
        let fits = count.checked_mul(bytes_min).is_some_and(|bytes| bytes <= self.remaining());
        if fits && self.elements <= ELEMENTS_MAX { Ok(Some(count)) } else { Err(Cut) }
    }

    /// Skips the tagged fields that end every struct of a flexible version.
    pub fn tags(&mut self) -> Result<(), Cut> {
        self.each_tag(|_, _| Ok(()))
    }

    /// Hands each tagged field to `seen`, with a cursor over its bytes.
    pub fn each_tag(&mut self, mut seen: impl FnMut(u32, &mut Cursor<'a>) -> Result<(), Cut>) -> Result<(), Cut> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            let range = self.slice(length)?;
            seen(tag, &mut Cursor::new(&self.bytes[range], true))?;
        }
        Ok(())
    }
}

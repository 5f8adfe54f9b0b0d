//! Writes responses: Kafka's primitive types into one buffer, with large payloads put between without a copy.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// One response as it goes out, its length in front.
pub type Reply = Vec<Bytes>;

/// A response being written. `flexible` chooses between compact and plain lengths.
#[derive(Debug)]
pub struct Writer {
    buffer: BytesMut,
    flexible: bool,
    /// Payloads, and where in the buffer each belongs.
    payloads: Vec<(usize, Bytes)>,
    payload_bytes: usize,
}

impl Writer {
    /// Begins with the response header: the length to come, the correlation id, and no tagged field where the header is flexible.
    pub fn new(correlation_id: i32, flexible: bool) -> Writer {
        let mut writer = Writer { buffer: BytesMut::with_capacity(256), flexible, payloads: Vec::new(), payload_bytes: 0 };
        writer.i32(0);
        writer.i32(correlation_id);
        writer.tags();
        writer
    }

    pub fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.buffer.put_slice(value.as_bytes());
    }

    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    /// A string of at most `i16::MAX` bytes; a longer one is cut at a character.
    pub fn nullable_string(&mut self, value: Option<&str>) {
        let value = value.map(|text| &text[..text.floor_char_boundary(i16::MAX as usize)]);
        match (self.flexible, value) {
            (true, text) => self.varint(text.map_or(0, |text| text.len() as u32 + 1)),
            (false, text) => self.i16(text.map_or(-1, |text| text.len() as i16)),
        }
        self.buffer.put_slice(value.unwrap_or_default().as_bytes());
    }

    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// The number of elements of an array. Counts come from requests and images, whose bounds lie far below `i32::MAX`.
    pub fn count(&mut self, elements: usize) {
        if self.flexible { self.varint(elements as u32 + 1) } else { self.i32(elements as i32) }
    }

    pub fn null_array(&mut self) {
        if self.flexible { self.varint(0) } else { self.i32(-1) }
    }

    /// Bytes in several pieces, taken as they are.
    pub fn payload(&mut self, pieces: impl IntoIterator<Item = Bytes>, total: usize) {
        self.count(total);
        for piece in pieces {
            self.payload_bytes += piece.len();
            self.payloads.push((self.buffer.len(), piece));
        }
    }

    /// Ends a struct without tagged fields.
    pub fn tags(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }

    /// Ends a struct with tagged fields, each written by a closure; only for flexible versions.
    pub fn tagged(&mut self, tag: u32, field: impl FnOnce(&mut Writer)) {
        let mut inner = Writer { buffer: BytesMut::new(), flexible: true, payloads: Vec::new(), payload_bytes: 0 };
        field(&mut inner);
        self.varint(1);
        self.varint(tag);
        self.varint(inner.buffer.len() as u32);
        self.buffer.put_slice(&inner.buffer);
    }

    pub fn finish(mut self) -> Reply {
        let length = self.buffer.len() - 4 + self.payload_bytes;
        self.buffer[..4].copy_from_slice(&(length as i32).to_be_bytes());
        let mut written = self.buffer.freeze();
        let mut parts = Vec::with_capacity(2 * self.payloads.len() + 1);
        let mut before = 0;
        for (at, payload) in self.payloads {
            if at > before {
                parts.push(written.split_to(at - before));
                before = at;
            }
            parts.push(payload);
        }
        if !written.is_empty() {
            parts.push(written);
        }
        parts
    }
}

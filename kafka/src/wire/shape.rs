//! What requests are made of, to look them over before they are decoded.
//!
//! The codec allocates as many elements as an array says it has, before it reads one: four bytes from anybody could ask
//! for a hundred gigabytes. So every request is walked first, by the tables in [`super::shapes`], and only one that has
//! the elements it claims, and not too many of them, is decoded.

/// A field, or what an array is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A number, flag or UUID of so many bytes.
    Fixed(usize),
    /// A string: its length, −1 for none, and its bytes.
    Text,
    /// As a string, with a longer length.
    Blob,
    /// A number of structs with these fields.
    Structs(&'static [Field]),
    /// A number of these.
    Each(&'static Self),
    /// A struct that may be absent: −1 in its first byte.
    Maybe(&'static [Field]),
}

/// A field, and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(super) kind: Kind,
    pub(super) since: i16,
    pub(super) until: i16,
}

/// A request's fields, and the first version with compact lengths and tagged fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(super) flexible: i16,
    pub(super) fields: &'static [Field],
}

/// Why a request is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("it ends inside a field")]
    Short,
    #[error("a length is negative or cannot be")]
    Length,
    #[error("it has more than {0} elements")]
    TooMany(usize),
}

/// Elements of all arrays of one request, tagged fields included.
pub(crate) const ELEMENTS_MAX: usize = 400_000;

impl Shape {
    /// Walks over a request's body. Bytes that follow its end are nobody's business: librdkafka sends some with Metadata.
    pub(crate) fn check(&self, body: &[u8], version: i16) -> Result<(), ShapeError> {
        let mut walk = Walk { rest: body, version, flexible: version >= self.flexible, elements: 0 };
        walk.fields(self.fields)
    }
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
}

impl<'a> Walk<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ShapeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ShapeError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn varint(&mut self) -> Result<usize, ShapeError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| ShapeError::Length);
            }
        }
        Err(ShapeError::Length)
    }

    /// A length as the version writes it; 0 for none.
    fn len(&mut self, wide: bool) -> Result<usize, ShapeError> {
        if self.flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let len = if wide { i32::from_be_bytes(self.array()?) } else { i16::from_be_bytes(self.array()?).into() };
        if len == -1 { Ok(0) } else { usize::try_from(len).map_err(|_| ShapeError::Length) }
    }

    fn count(&mut self, elements: usize) -> Result<(), ShapeError> {
        self.elements = self.elements.saturating_add(elements);
        if self.elements > ELEMENTS_MAX { Err(ShapeError::TooMany(ELEMENTS_MAX)) } else { Ok(()) }
    }

    /// Fields of a struct, and its tagged ones.
    fn fields(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for field in fields.iter().filter(|f| (f.since..=f.until).contains(&version)) {
            self.kind(field.kind)?;
        }
        if self.flexible { self.tags() } else { Ok(()) }
    }

    fn tags(&mut self) -> Result<(), ShapeError> {
        let tags = self.varint()?;
        self.count(tags)?;
        for _ in 0..tags {
            self.varint()?;
            let len = self.varint()?;
            self.take(len)?;
        }
        Ok(())
    }

    fn kind(&mut self, kind: Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(len) => self.take(len).map(drop),
            Kind::Text | Kind::Blob => {
                let len = self.len(matches!(kind, Kind::Blob))?;
                self.take(len).map(drop)
            }
            Kind::Structs(fields) => self.elements(|walk| walk.fields(fields)),
            Kind::Each(kind) => self.elements(|walk| walk.kind(*kind)),
            Kind::Maybe(fields) => match self.array()? {
                [0xff] => Ok(()),
                [_] => self.fields(fields),
            },
        }
    }

    fn elements(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), ShapeError>) -> Result<(), ShapeError> {
        let len = self.len(true)?;
        self.count(len)?;
        // An element has a byte at least, so this many cannot be there.
        if len > self.rest.len() {
            return Err(ShapeError::Short);
        }
        (0..len).try_for_each(|_| element(self))
    }
}

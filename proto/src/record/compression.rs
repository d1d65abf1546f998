//! Codecs of a batch's records, in the dialects that Kafka's clients speak:
//! - gzip: one or more members (RFC 1952).
//! - snappy: blocks of 32 KiB in the framing of xerial's Java library when written; that or one raw block when read,
//!   because librdkafka and franz-go send the latter. The framing's version fields differ per client and say nothing.
//! - lz4: one LZ4 frame; written in independent blocks of 64 KiB without checksums, the only kind that the Java client
//!   reads (it refuses linked blocks).
//! - zstd: frames without a dictionary (RFC 8878), with or without their content's length.
//!
//! Compressed bytes come from outside: decompression stops with an error where its output would pass the caller's limit,
//! and allocates in proportion to that limit at most.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::ParseError;
use crate::record::error::BatchError;

/// Most bytes that a batch may decompress to, unless its reader says otherwise.
pub const DECOMPRESSED_LEN_MAX: usize = 64 << 20;

const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Version and compatible version of xerial's framing, 1 each, big-endian.
const XERIAL_VERSIONS: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_LEN: usize = 32 << 10;
/// Snappy's densest element makes 64 bytes of 3.
const SNAPPY_RATIO_MAX: usize = 22;
/// The largest window that a zstd encoder uses without being forced to (level 22): 128 MiB. The decoder reserves what a
/// frame names, and touches as much of it as the content needs.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Kafka's default.
const ZSTD_LEVEL: i32 = 3;

/// How a batch's records are compressed. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec's number in a batch's attributes.
    pub const fn codec(self) -> u16 {
        self as u16
    }

    pub fn from_codec(codec: u16) -> Option<Self> {
        Self::ALL.get(usize::from(codec)).copied()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `plain` in its compressed form to `out`.
    pub fn compress(self, plain: &[u8], out: &mut BytesMut) {
        match self {
            Self::None => out.extend_from_slice(plain),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out.writer(), flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish()).expect("memory takes what is written");
            }
            Self::Snappy => compress_xerial(plain, out),
            Self::Lz4 => {
                use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
                let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(info, out.writer());
                encoder.write_all(plain).expect("memory takes what is written");
                encoder.finish().expect("memory takes what is written");
            }
            Self::Zstd => {
                let start = out.len();
                out.resize(start + zstd::zstd_safe::compress_bound(plain.len()), 0);
                let len = zstd::bulk::compress_to_buffer(plain, &mut out[start..], ZSTD_LEVEL)
                    .expect("the output has the length that zstd asks for");
                out.truncate(start + len);
            }
        }
    }

    /// What was compressed; an error if it is damaged, followed by something else, or longer than `len_max` bytes.
    pub fn decompress(self, compressed: &Bytes, len_max: usize) -> Result<Bytes, BatchError> {
        let plain = match self {
            Self::None => return Ok(compressed.clone()),
            Self::Gzip => {
                read_bounded(&mut flate2::bufread::MultiGzDecoder::new(&compressed[..]), compressed.len(), len_max)
            }
            Self::Snappy => decompress_snappy(compressed, len_max),
            Self::Lz4 => decompress_lz4(compressed, len_max),
            Self::Zstd => decompress_zstd(compressed, len_max),
        };
        plain.map(Bytes::from).map_err(|failure| failure.into_error(self, len_max))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|compression| compression.name() == s)
            .ok_or_else(|| ParseError::new(s, "a compression (none, gzip, snappy, lz4 or zstd)"))
    }
}

enum Failure {
    TooLong,
    Malformed(Box<str>),
}

impl Failure {
    fn into_error(self, codec: Compression, max: usize) -> BatchError {
        match self {
            Self::TooLong => BatchError::DecompressedTooLarge { max },
            Self::Malformed(reason) => BatchError::Decompress { codec, reason },
        }
    }
}

impl From<&'static str> for Failure {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Malformed(error.to_string().into())
    }
}

impl From<snap::Error> for Failure {
    fn from(error: snap::Error) -> Self {
        Self::Malformed(error.to_string().into())
    }
}

/// Everything that `plain` gives. Guesses a length from the compressed one and grows from there.
fn read_bounded(plain: &mut impl Read, compressed_len: usize, len_max: usize) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(compressed_len.saturating_mul(3).min(len_max));
    plain.take((len_max as u64).saturating_add(1)).read_to_end(&mut out)?;
    if out.len() > len_max { Err(Failure::TooLong) } else { Ok(out) }
}

fn decompress_lz4(compressed: &[u8], len_max: usize) -> Result<Vec<u8>, Failure> {
    let mut decoder = lz4_flex::frame::FrameDecoder::new(compressed);
    let plain = read_bounded(&mut decoder, compressed.len(), len_max)?;
    if decoder.get_ref().is_empty() { Ok(plain) } else { Err("bytes follow the frame".into()) }
}

fn decompress_zstd(compressed: &[u8], len_max: usize) -> Result<Vec<u8>, Failure> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    read_bounded(&mut decoder, compressed.len(), len_max)
}

fn compress_xerial(plain: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_LEN) {
        let start = out.len() + size_of::<u32>();
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let len = encoder.compress(block, &mut out[start..]).expect("the output has the length that snappy asks for");
        out[start - size_of::<u32>()..start].copy_from_slice(&(len as u32).to_be_bytes());
        out.truncate(start + len);
    }
}

fn decompress_snappy(compressed: &[u8], len_max: usize) -> Result<Vec<u8>, Failure> {
    let mut plain = Vec::new();
    let Some(framed) = compressed.strip_prefix(XERIAL_MAGIC) else {
        append_snappy_block(&mut plain, compressed, len_max)?;
        return Ok(plain);
    };
    let mut rest = framed.get(XERIAL_VERSIONS.len()..).ok_or("its framing is cut off")?;
    while !rest.is_empty() {
        let (len, blocks) = rest.split_first_chunk().ok_or("a block's length is cut off")?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, next) = blocks.split_at_checked(len).ok_or("a block is cut off")?;
        append_snappy_block(&mut plain, block, len_max)?;
        rest = next;
    }
    Ok(plain)
}

fn append_snappy_block(plain: &mut Vec<u8>, block: &[u8], len_max: usize) -> Result<(), Failure> {
    let len = snap::raw::decompress_len(block)?;
    // The block says itself how long it will be, so this is where a lie would get memory.
    if len / SNAPPY_RATIO_MAX > block.len() {
        return Err("a block claims to be longer than it can be".into());
    }
    let start = plain.len();
    if len > len_max - start {
        return Err(Failure::TooLong);
    }
    plain.resize(start + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut plain[start..])?;
    debug_assert_eq!(written, len, "the decoder holds a block to its word");
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compressed(codec: Compression, plain: &[u8]) -> Bytes {
        let mut out = BytesMut::from(&b"before"[..]);
        codec.compress(plain, &mut out);
        out.freeze().slice(b"before".len()..)
    }

    fn malformed(error: &BatchError) -> bool {
        matches!(error, BatchError::Decompress { .. })
    }

    #[test]
    fn codecs_have_kafkas_names_and_numbers() {
        let named: Vec<_> = Compression::ALL.iter().map(|c| (c.codec(), c.to_string())).collect();
        let expected = ["none", "gzip", "snappy", "lz4", "zstd"];
        assert!(named.iter().zip(0..).all(|((codec, name), i)| *codec == i && name == expected[usize::from(i)]));
        for codec in Compression::ALL {
            assert_eq!(codec.name().parse(), Ok(codec));
            assert_eq!(Compression::from_codec(codec.codec()), Some(codec));
        }
        assert_eq!(Compression::from_codec(5), None);
        assert!("LZ4".parse::<Compression>().is_err());
    }

    #[test]
    fn a_bomb_goes_off_at_the_limit() {
        let plain = vec![0; 1 << 20];
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let bomb = compressed(codec, &plain);
            assert!(bomb.len() < plain.len() / 10, "{codec}");
            let too_large = Err(BatchError::DecompressedTooLarge { max: plain.len() - 1 });
            assert_eq!(codec.decompress(&bomb, plain.len() - 1), too_large, "{codec}");
            assert_eq!(codec.decompress(&bomb, 0), Err(BatchError::DecompressedTooLarge { max: 0 }), "{codec}");
            assert_eq!(codec.decompress(&bomb, plain.len()).unwrap(), plain, "{codec}");
        }
    }

    #[test]
    fn a_snappy_block_gets_no_memory_for_a_claim() {
        // A raw block of 10 bytes that says it holds 2^32 − 1, and one that says 1 MiB.
        for claim in [&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0][..], &[0x80, 0x80, 0x40, 0, 0, 0, 0, 0, 0, 0]] {
            let error = Compression::Snappy.decompress(&Bytes::copy_from_slice(claim), usize::MAX).unwrap_err();
            assert!(error.to_string().ends_with("a block claims to be longer than it can be"), "{error}");
        }
    }

    #[test]
    fn what_never_ends_is_read_up_to_the_limit() {
        assert!(matches!(read_bounded(&mut std::io::repeat(0), 1, 1000), Err(Failure::TooLong)));
        assert!(matches!(read_bounded(&mut std::io::repeat(0).take(1000), 1, 1000), Ok(plain) if plain.len() == 1000));
    }

    #[test]
    fn the_version_fields_of_the_snappy_framing_say_nothing() {
        let mut framed = compressed(Compression::Snappy, b"hello hello hello").to_vec();
        assert_eq!(framed[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        framed[8..16].copy_from_slice(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Compression::Snappy.decompress(&framed.into(), 100).unwrap(), "hello hello hello");
    }

    #[test]
    fn bytes_after_the_end_are_not_overlooked() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut trailing = compressed(codec, b"hello").to_vec();
            trailing.extend_from_slice(b"more");
            let error = codec.decompress(&trailing.into(), 100).unwrap_err();
            assert!(malformed(&error), "{codec}: {error}");
        }
    }

    #[test]
    fn lz4_is_what_the_java_client_reads() {
        let frame = compressed(Compression::Lz4, b"hello");
        assert_eq!(frame[..4], [0x04, 0x22, 0x4d, 0x18]);
        assert_eq!(frame[4], 0b0110_0000, "version 1, independent blocks, no checksums, no length, no dictionary");
        assert_eq!(frame[5], 0b0100_0000, "64 KiB");
    }

    #[test]
    fn linked_lz4_blocks_are_read_too() {
        use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
        let plain: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().block_mode(BlockMode::Linked), Vec::new());
        encoder.write_all(&plain).unwrap();
        let frame = Bytes::from(encoder.finish().unwrap());
        assert_eq!(Compression::Lz4.decompress(&frame, plain.len()).unwrap(), plain);
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            piece in prop::collection::vec(any::<u8>(), 0..300), times in 0usize..400, codec in 0u16..5,
        ) {
            let codec = Compression::from_codec(codec).unwrap();
            let plain = piece.repeat(times);
            prop_assert_eq!(codec.decompress(&compressed(codec, &plain), plain.len()).unwrap(), plain);
        }

        #[test]
        fn no_bytes_panic(codec in 0u16..5, bytes: Vec<u8>, piece: Vec<u8>, times in 1usize..1000, flips: [(u16, u8); 3]) {
            let codec = Compression::from_codec(codec).unwrap();
            let _ = codec.decompress(&bytes.into(), 1 << 16);
            let mut damaged = compressed(codec, &piece.repeat(times)).to_vec();
            let len = damaged.len().max(1);
            for (at, flip) in flips {
                if let Some(byte) = damaged.get_mut(usize::from(at) % len) {
                    *byte ^= flip;
                }
            }
            if let Ok(plain) = codec.decompress(&damaged.into(), 1 << 16) {
                prop_assert!(codec == Compression::None || plain.len() <= 1 << 16);
            }
        }
    }
}

//! Input in chunks of whole lines.

use std::io::{self, Read};

/// What is asked of the input at a time.
const READ_LEN: usize = 128 << 10;

/// Splits input at the last newline of whatever a read brings, so that lines are handed on as soon as they are there.
#[derive(Debug)]
pub(super) struct Chunks<R> {
    input: R,
    /// The beginning of the next line.
    rest: Vec<u8>,
    line_len_max: usize,
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(input: R, line_len_max: usize) -> Self {
        Self { input, rest: Vec::new(), line_len_max }
    }

    /// The next lines, each with its newline, which the input's last line may lack; `None` at the end. Of a line that is longer
    /// than allowed, what is there: longer than allowed, too.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = std::mem::take(&mut self.rest);
        loop {
            let known = chunk.len();
            chunk.resize(known + READ_LEN, 0);
            let len = self.read(&mut chunk[known..])?;
            chunk.truncate(known + len);
            if len == 0 {
                return Ok(Some(chunk).filter(|chunk| !chunk.is_empty()));
            }
            if let Some(newline) = memchr::memrchr(b'\n', &chunk[known..]) {
                self.rest = chunk.split_off(known + newline + 1);
                return Ok(Some(chunk));
            }
            if chunk.len() > self.line_len_max {
                return Ok(Some(chunk));
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

/// The lines of a chunk, without their newlines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    chunk: Vec<u8>,
    at: usize,
}

impl Lines {
    pub(super) fn new(chunk: Vec<u8>) -> Self {
        Self { chunk, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.chunk.len()
    }

    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let rest = &self.chunk[self.at..];
        let line = memchr::memchr(b'\n', rest).map_or(rest, |newline| &rest[..newline]);
        self.at = (self.at + line.len() + 1).min(self.chunk.len());
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes per read.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(self.0.len()).min(buffer.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn lines_of(input: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut chunks = Chunks::new(Dribble(input, step), 1 << 20);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().unwrap() {
            let mut lines = Lines::new(chunk);
            while let Some(line) = lines.next() {
                all.push(line.to_vec());
            }
        }
        all
    }

    #[test]
    fn lines_come_out_however_they_come_in() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"", &[]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"\n", &[b""]),
            (b"\n\n\nx", &[b"", b"", b"", b"x"]),
            (b"one\r\ntwo\n\xff\0\nthree", &[b"one\r", b"two", b"\xff\0", b"three"]),
            (b"one\n\n", &[b"one", b""]),
        ];
        for (input, lines) in cases {
            for step in [1, 2, 3, 100] {
                assert_eq!(lines_of(input, step), lines, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn lines_longer_than_a_read_are_put_together() {
        let long = vec![b'x'; READ_LEN * 3];
        let input = [&long[..], b"\nshort"].concat();
        assert_eq!(lines_of(&input, usize::MAX), [&long[..], b"short"]);
    }

    #[test]
    fn a_line_without_end_is_not_collected_for_ever() {
        let mut chunks = Chunks::new(io::repeat(b'x'), 1000);
        let chunk = chunks.next().unwrap().unwrap();
        assert!(chunk.len() > 1000 && chunk.len() <= 1000 + READ_LEN);
    }

    #[test]
    fn what_is_there_is_not_held_back() {
        let mut chunks = Chunks::new(Dribble(b"first\nsec", 9).chain(Dribble(b"ond\n", 4)), 1 << 20);
        assert_eq!(chunks.next().unwrap().unwrap(), b"first\n");
        assert_eq!(chunks.next().unwrap().unwrap(), b"second\n");
        assert_eq!(chunks.next().unwrap(), None);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Archives behind whatever they are packed with: gzip, bzip2, xz, zstd or nothing, told by their first bytes.
//!
//! Unpacking is done in this process, by no program (CVE-2019-14271 and its kin), and with a bound on the memory that a
//! stream may ask for: 128 MiB of window for zstd, what `zstd` itself takes unasked, and as much of dictionary for xz, twice
//! what `xz -9` uses. gzip and bzip2 have small windows by design. How much comes out is its reader's to bound.

use std::io::{self, BufRead, BufReader, Cursor, Read};

/// As a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// A dictionary of 128 MiB, and the decoder's own.
const XZ_MEMORY_MAX: u64 = (128 + 2) << 20;
/// Bytes that tell the format.
const MAGIC: u64 = 6;
const BUFFER: usize = 128 << 10;

/// What bytes are packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl Format {
    /// The format of what begins so; what is too short for any is plain.
    #[must_use]
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // Skippable frames may come first (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The bytes that `packed` packs, and what with.
///
/// # Errors
///
/// Its first bytes cannot be read. Reading the answer fails with `InvalidData` or `UnexpectedEof` where the stream is
/// damaged, cut short, or asks for too much memory.
pub fn open<'a>(packed: impl Read + 'a) -> io::Result<(Format, Box<dyn BufRead + 'a>)> {
    let (format, all) = told(packed)?;
    Ok((format, unpacked(format, all)?))
}

/// The same of what comes in buffers already: what is not packed is lent from these.
///
/// # Errors
///
/// As [`open`].
pub fn open_buffered<'a>(mut packed: impl BufRead + 'a) -> io::Result<(Format, Box<dyn BufRead + 'a>)> {
    let mut start = Vec::new();
    packed.by_ref().take(MAGIC).read_to_end(&mut start)?;
    let format = Format::of(&start);
    Ok((format, of_buffers(format, Read::chain(Cursor::new(start), packed))?))
}

/// What the bytes are packed with, and all of them: their first ones may come one by one.
pub(crate) fn told(mut packed: impl Read) -> io::Result<(Format, impl Read)> {
    let mut start = Vec::new();
    packed.by_ref().take(MAGIC).read_to_end(&mut start)?;
    Ok((Format::of(&start), Read::chain(Cursor::new(start), packed)))
}

/// The bytes that `packed` packs with this.
pub(crate) fn unpacked<'a>(format: Format, packed: impl Read + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    of_buffers(format, BufReader::with_capacity(BUFFER, packed))
}

fn of_buffers<'a>(format: Format, all: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let buffered =
        |decoder| -> Box<dyn BufRead + 'a> { Box::new(BufReader::with_capacity(BUFFER, Damage(decoder))) };
    Ok(match format {
        Format::Plain => Box::new(all),
        Format::Gzip => buffered(Box::new(flate2::bufread::MultiGzDecoder::new(all)) as Box<dyn Read + 'a>),
        Format::Bzip2 => buffered(Box::new(bzip2::bufread::MultiBzDecoder::new(all))),
        Format::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, flags)?;
            buffered(Box::new(liblzma::bufread::XzDecoder::new_stream(all, stream)))
        }
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(all)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            buffered(Box::new(decoder))
        }
    })
}

/// Gives what a decoder says of a bad stream one kind: some say `Other`.
struct Damage<R>(R);

impl<R: Read> Read for Damage<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            // What the host or the connection says has a number, or an error of ours within.
            let foreign = error.get_ref().is_some_and(|inner| inner.is::<berth_domain::Error>());
            match error.kind() {
                io::ErrorKind::Other if error.raw_os_error().is_none() && !foreign => {
                    io::Error::new(io::ErrorKind::InvalidData, error)
                }
                _ => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write;

    use super::*;

    fn packed(format: Format, plain: &[u8]) -> Vec<u8> {
        match format {
            Format::Plain => plain.to_vec(),
            Format::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(plain).unwrap();
                out.finish().unwrap()
            }
            Format::Bzip2 => {
                let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                out.write_all(plain).unwrap();
                out.finish().unwrap()
            }
            Format::Xz => {
                let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
                out.write_all(plain).unwrap();
                out.finish().unwrap()
            }
            Format::Zstd => zstd::encode_all(plain, 1).unwrap(),
        }
    }

    fn read(packed: &[u8]) -> (Format, io::Result<Vec<u8>>) {
        let (format, mut reader) = open(packed).unwrap();
        let mut plain = Vec::new();
        (format, reader.read_to_end(&mut plain).map(|_| plain))
    }

    #[test]
    fn every_format_is_told_and_unpacked_members_after_members_too() {
        let plain: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        for format in [Format::Plain, Format::Gzip, Format::Bzip2, Format::Xz, Format::Zstd] {
            let once = packed(format, &plain);
            let twice = [once.clone(), once.clone()].concat();
            let (told, unpacked) = read(&once);
            assert!(told == format && unpacked.unwrap() == plain, "{format:?}");
            assert_eq!(read(&twice).1.unwrap().len(), 2 * plain.len(), "{format:?}");
            if format != Format::Plain {
                let error = read(&once[..once.len() / 2]).1.unwrap_err();
                assert!(
                    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData),
                    "{format:?}: {error:?}"
                );
                let mut garbage = once[..6].to_vec();
                garbage.extend_from_slice(&[b'x'; 100]);
                let error = read(&garbage).1.unwrap_err();
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof
                            | io::ErrorKind::InvalidData
                            | io::ErrorKind::InvalidInput
                    ),
                    "{format:?}: {error:?}"
                );
            }
        }
        assert_eq!(read(b"").0, Format::Plain);
    }

    #[test]
    fn what_is_not_packed_is_lent_from_the_buffers_it_came_in() {
        let plain = vec![7; 300_000];
        let (format, mut lent) = open_buffered(&plain[..]).unwrap();
        assert_eq!(format, Format::Plain);
        let start = lent.fill_buf().unwrap().len();
        lent.consume(start);
        let rest = lent.fill_buf().unwrap();
        assert!(
            start + rest.len() == plain.len() && std::ptr::eq(&rest[rest.len() - 1], &plain[plain.len() - 1])
        );
        let zipped = packed(Format::Gzip, &plain);
        let mut unzipped = Vec::new();
        open_buffered(&zipped[..]).unwrap().1.read_to_end(&mut unzipped).unwrap();
        assert!(unzipped == plain);
    }

    #[test]
    fn large_windows_and_dictionaries_are_refused() {
        // A frame header that asks for 2 GiB: magic, descriptor without single segment, window descriptor.
        let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(read(&bomb).1.is_err());
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(1 << 30);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let stream =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::None).unwrap();
        let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        out.write_all(b"x").unwrap();
        assert!(read(&out.finish().unwrap()).1.is_err());
    }
}

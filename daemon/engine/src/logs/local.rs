// SPDX-License-Identifier: Apache-2.0
//! `local` logs: [`berth_shim_proto::local`].

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use berth_shim_proto::local::{BLOCK, Frames, HEADER, Header, Kind};

use super::output::{Output, Record, Time};

/// Where in a file reading goes on: at a frame, past some of its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) lines: u32,
}

/// Hands over the whole frames of `chunk`, which lies at `place` of a file; moves `place` behind them.
pub(super) fn read(chunk: &[u8], place: &mut Place, limit: usize, attrs: &mut Vec<u8>, out: &mut Output) {
    let mut rest = chunk;
    loop {
        let left = BLOCK - usize::try_from(place.offset % BLOCK as u64).unwrap_or(0);
        let block = &rest[..rest.len().min(left)];
        let mut frames = Frames::new(block);
        let mut done = 0;
        while let Some((header, payload)) = frames.next() {
            let go_on = frame(&header, payload, place.lines, attrs, out);
            place.lines = 0;
            done = frames.offset();
            if !go_on || out.len() >= limit {
                place.offset += done as u64;
                return;
            }
        }
        // Writing goes on: what follows the frames of a block that is there in full is padding, or damage.
        let used = if block.len() == left { left } else { done };
        place.offset += used as u64;
        rest = &rest[used..];
        if used < left || rest.is_empty() {
            return;
        }
    }
}

fn frame(header: &Header, payload: &[u8], skip: u32, attrs: &mut Vec<u8>, out: &mut Output) -> bool {
    let mut record =
        |text| out.push(&Record { stderr: header.stderr, time: Time::Nanos(header.time), text, attrs });
    match header.kind {
        Kind::Attrs => {
            *attrs = payload.to_vec();
            true
        }
        Kind::Part => skip > 0 || record(Cow::Borrowed(payload)),
        Kind::Lines => {
            let mut start = 0;
            for (n, end) in memchr::memchr_iter(b'\n', payload).enumerate() {
                let line = &payload[start..=end];
                start = end + 1;
                if n >= skip as usize && !record(Cow::Borrowed(line)) {
                    return false;
                }
            }
            true
        }
    }
}

/// A place at or before the first line that is not older than `since`: the beginning of a block.
pub(super) fn seek(file: &File, length: u64, since: i64) -> io::Result<u64> {
    let (mut low, mut high) = (0, length.div_ceil(BLOCK as u64));
    let mut header = [0; HEADER];
    // The first frame of block `low` is older than `since` (or it is the first block).
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let n = file.read_at(&mut header, middle * BLOCK as u64)?;
        match Header::decode(&header[..n]) {
            Some(header) if header.time < since => low = middle,
            Some(_) => high = middle,
            None => break,
        }
    }
    Ok(low * BLOCK as u64)
}

/// Where the last `wanted` lines begin, and how many there are.
pub(super) fn tail(file: &File, length: u64, wanted: u64) -> io::Result<(Place, u64)> {
    let mut lines = 0;
    let mut block = vec![0; BLOCK];
    for number in (0..length.div_ceil(BLOCK as u64)).rev() {
        let start = number * BLOCK as u64;
        let n = read_up_to(file, &mut block, start)?;
        let mut frames = Frames::new(&block[..n]);
        let mut places = Vec::new();
        loop {
            let at = frames.offset();
            match frames.next() {
                Some((header, _)) => places.push((at, header.lines)),
                None => break,
            }
        }
        for (at, count) in places.into_iter().rev() {
            lines += u64::from(count);
            if lines >= wanted {
                let skip = u32::try_from(lines - wanted).unwrap_or(0);
                return Ok((Place { offset: start + at as u64, lines: skip }, wanted));
            }
        }
    }
    Ok((Place::default(), lines))
}

/// The attributes of what comes at `offset`.
pub(super) fn attrs_at(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    for number in (0..offset.div_ceil(BLOCK as u64)).rev() {
        let start = number * BLOCK as u64;
        let n = read_up_to(file, &mut block, start)?;
        let n = n.min(usize::try_from(offset - start).unwrap_or(n));
        let attrs = Frames::new(&block[..n]).filter(|(header, _)| header.kind == Kind::Attrs);
        if let Some((_, payload)) = attrs.last() {
            return Ok(payload.to_vec());
        }
    }
    Ok(Vec::new())
}

/// Fills `buffer` as far as the file goes.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

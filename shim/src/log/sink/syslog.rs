// SPDX-License-Identifier: Apache-2.0
//! Syslog messages.

use berth_shim_proto::SyslogFormat;

use crate::log::lines::Line;
use crate::log::time::Civil;
use crate::stdcopy::Stream;

#[derive(Debug)]
pub(super) struct Syslog {
    pub(super) format: SyslogFormat,
    pub(super) facility: u8,
    pub(super) tag: String,
    pub(super) hostname: String,
    pub(super) utc_offset: i32,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Syslog {
    pub(super) fn message(&self, stream: Stream, line: &Line<'_>) -> Vec<u8> {
        // err and info.
        let severity = if stream == Stream::Stderr { 3 } else { 6 };
        let priority = u16::from(self.facility) * 8 + severity;
        let pid = std::process::id();
        let (tag, hostname) = (&self.tag, &self.hostname);
        let utc = Civil::of(line.at);
        let head = match self.format {
            SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", self.stamp(line)),
            SyslogFormat::Rfc3164 => format!("<{priority}>{} {hostname} {tag}[{pid}]: ", self.stamp(line)),
            SyslogFormat::Rfc5424 => {
                format!("<{priority}>1 {}Z {hostname} {tag} {pid} {tag} - ", utc.seconds())
            }
            SyslogFormat::Rfc5424Micro => format!(
                "<{priority}>1 {}.{:06}Z {hostname} {tag} {pid} {tag} - ",
                utc.seconds(),
                utc.nanos / 1000
            ),
        };
        let mut message = head.into_bytes();
        message.extend_from_slice(line.text);
        // Servers on a stream tell messages apart by it; on datagrams the reference sends it, too.
        message.push(b'\n');
        message
    }

    /// `Nov 20 08:36:07`, local time.
    fn stamp(&self, line: &Line<'_>) -> String {
        let shift = std::time::Duration::from_secs(self.utc_offset.unsigned_abs().into());
        let local = if self.utc_offset < 0 { line.at.saturating_sub(shift) } else { line.at + shift };
        let Civil { month, day, hour, minute, second, .. } = Civil::of(local);
        let month = usize::try_from(month).ok().and_then(|month| MONTHS.get(month - 1)).unwrap_or(&"Jan");
        format!("{month} {day:2} {hour:02}:{minute:02}:{second:02}")
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Who a process runs as: `--user` and `--group-add` resolved inside the container's root.

/// A user as `--user` or the image's `USER` gives it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserRequest<'a> {
    /// `""`, `name`, `uid`, `name:group`, `uid:gid`, ... Numbers are numbers, never names.
    pub user: &'a str,
    /// Additional groups: names (looked up in the container's /etc/group) or numbers.
    pub groups: &'a [String],
}

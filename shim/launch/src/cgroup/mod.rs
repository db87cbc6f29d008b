// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup on every layout: unified (v2), v1, and the hybrid of both.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Result};

/// A container's cgroup, in each hierarchy that the host has.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Replaces limits: fields that are present are written, others stay.
    ///
    /// # Errors
    ///
    /// The kernel refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        Err(Error::internal(format!("{}: {resources:?}", self.path.display())))
    }

    /// Processes of this cgroup that the kernel killed for memory since it was made.
    ///
    /// # Errors
    ///
    /// The counter cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        Err(Error::internal("not there yet"))
    }

    /// Freezes or thaws every process; returns when the kernel says it is so.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or it did not happen within ten seconds.
    pub fn freeze(&self, _frozen: bool) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Pids in the cgroup and below it, as this process sees them.
    ///
    /// # Errors
    ///
    /// The list cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Err(Error::internal("not there yet"))
    }

    /// Sends a signal to every process.
    ///
    /// # Errors
    ///
    /// The list of processes cannot be read.
    pub fn signal(&self, _signal: i32) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Kills every process, those that fork meanwhile included.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn kill(&self) -> Result<()> {
        Err(Error::internal("not there yet"))
    }

    /// Removes the cgroup from every hierarchy, with whatever groups the container made below it.
    ///
    /// # Errors
    ///
    /// Processes are left in it.
    pub fn remove(&self) -> Result<()> {
        Err(Error::internal("not there yet"))
    }
}

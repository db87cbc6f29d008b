// SPDX-License-Identifier: Apache-2.0
//! Health checks: what was asked, and what a run of probes comes to.

use std::time::Duration;

use berth_api::types::container_create::ContainerConfig;
use berth_domain::{Error, Result};

use crate::snapshot::{Health, HealthStatus, Probe};

/// A health check, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) start_period: Duration,
    pub(crate) start_interval: Duration,
    pub(crate) retries: u32,
}

/// Probes that are remembered.
const REMEMBERED: usize = 5;
/// How much of a probe's output is remembered.
pub(crate) const OUTPUT: usize = 4096;

impl HealthCheck {
    /// Checks what was asked; `None` for no health check.
    ///
    /// # Errors
    ///
    /// An unknown kind of test, a duration below 1 ms.
    pub(crate) fn derive(config: &ContainerConfig) -> Result<Option<Self>> {
        let Some(check) = &config.healthcheck else { return Ok(None) };
        let test = check.test.as_deref().unwrap_or_default();
        let [kind, arguments @ ..] = test else { return Ok(None) };
        let duration = |field: &str, nanoseconds: i64, default: u64| match nanoseconds {
            0 => Ok(Duration::from_secs(default)),
            n if n < 1_000_000 => {
                Err(Error::invalid(format!("{field} in Healthcheck cannot be less than 1ms")))
            }
            n => Ok(Duration::from_nanos(n.unsigned_abs())),
        };
        let interval = duration("Interval", check.interval, 30)?;
        let timeout = duration("Timeout", check.timeout, 30)?;
        let start_period = duration("StartPeriod", check.start_period, 0)?;
        let start_interval = duration("StartInterval", check.start_interval, 5)?;
        let retries = u32::try_from(check.retries)
            .map_err(|_| Error::invalid("Retries in Healthcheck cannot be negative"))?;
        let command = match (kind.as_str(), arguments) {
            ("NONE", _) => return Ok(None),
            ("CMD", [_, ..]) => arguments.to_vec(),
            ("CMD-SHELL", [script, ..]) => {
                let shell = config.shell.clone().filter(|shell| !shell.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                command.push(script.clone());
                command
            }
            ("CMD" | "CMD-SHELL", _) => {
                return Err(Error::invalid(format!("Healthcheck {kind} without a command")));
            }
            (other, _) => return Err(Error::invalid(format!("Unknown healthcheck type '{other}'"))),
        };
        Ok(Some(Self {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries: if retries == 0 { 3 } else { retries },
        }))
    }

    /// How long until the next probe of a container that has run for `ran`.
    pub(crate) fn pause(&self, health: &Health, ran: Duration) -> Duration {
        if health.status == HealthStatus::Starting && ran < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// What `probe` makes of `health`. `ran`: how long the container had run when the probe began.
    pub(crate) fn judge(&self, mut health: Health, probe: Probe, ran: Duration) -> Health {
        if probe.exit_code == 0 {
            health.status = HealthStatus::Healthy;
            health.failing_streak = 0;
        } else if !(health.status == HealthStatus::Starting && ran < self.start_period) {
            // Failures while it may still be starting do not count.
            health.failing_streak = health.failing_streak.saturating_add(1);
            if health.failing_streak >= self.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        if health.log.len() == REMEMBERED {
            health.log.remove(0);
        }
        health.log.push(probe);
        health
    }
}

impl Health {
    /// Before the first probe.
    pub(crate) fn starting() -> Self {
        Self { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use berth_api::types::container_create::HealthConfig;

    use super::*;

    fn derive(check: HealthConfig) -> Result<Option<HealthCheck>> {
        HealthCheck::derive(&ContainerConfig { healthcheck: Some(check), ..ContainerConfig::default() })
    }

    fn test(words: &[&str]) -> HealthConfig {
        HealthConfig {
            test: Some(words.iter().map(|w| (*w).to_owned()).collect()),
            ..HealthConfig::default()
        }
    }

    #[test]
    fn what_was_asked_is_checked() {
        assert_eq!(derive(test(&[])).unwrap(), None);
        assert_eq!(derive(test(&["NONE"])).unwrap(), None);
        let shell = derive(test(&["CMD-SHELL", "true"])).unwrap().unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "true"]);
        assert_eq!((shell.interval.as_secs(), shell.timeout.as_secs(), shell.retries), (30, 30, 3));
        derive(test(&["NOPE"])).expect_err("unknown kind");
        derive(test(&["CMD"])).expect_err("no command");
        let short = HealthConfig { interval: 1000, ..test(&["CMD", "x"]) };
        assert_eq!(
            derive(short).expect_err("short").to_string(),
            "Interval in Healthcheck cannot be less than 1ms"
        );
    }

    #[test]
    fn verdicts() {
        let check = HealthCheck {
            start_period: Duration::from_secs(10),
            retries: 2,
            ..derive(test(&["CMD", "x"])).unwrap().unwrap()
        };
        let probe = |exit_code| Probe {
            started_at: jiff::Timestamp::UNIX_EPOCH,
            ended_at: jiff::Timestamp::UNIX_EPOCH,
            exit_code,
            output: String::new(),
        };
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        let health = check.judge(Health::starting(), probe(1), early);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        let health = check.judge(health, probe(1), late);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 1));
        let health = check.judge(health, probe(1), late);
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        let health = (0..9).fold(health, |health, _| check.judge(health, probe(0), late));
        assert_eq!((health.status, health.failing_streak, health.log.len()), (HealthStatus::Healthy, 0, 5));
    }
}

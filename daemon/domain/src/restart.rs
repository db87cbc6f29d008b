// SPDX-License-Identifier: Apache-2.0
//! When a container is started again, and how long that waits.

use std::time::Duration;

use crate::Error;

/// The policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, and at daemon start even if it was stopped by hand.
    Always,
    /// Whenever it ends unless it was stopped by hand.
    UnlessStopped,
    /// When it ends with a code other than 0, at most so many times in a row (0: without end).
    OnFailure(u32),
}

impl RestartPolicy {
    /// From the API's name and count.
    ///
    /// # Errors
    ///
    /// An unknown name, a negative count, a count where it has no meaning.
    pub fn parse(name: &str, retries: i64) -> Result<Self, Error> {
        let only_on_failure = "maximum retry count can only be used with 'on-failure'";
        let policy = match name {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => {
                let count = u32::try_from(retries).map_err(|_| {
                    Error::invalid("invalid restart policy: maximum retry count cannot be negative")
                })?;
                return Ok(Self::OnFailure(count));
            }
            other => {
                return Err(Error::invalid(format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
                )));
            }
        };
        match retries {
            0 => Ok(policy),
            n if n < 0 => Err(Error::invalid(format!(
                "invalid restart policy: {only_on_failure} and cannot be negative"
            ))),
            _ => Err(Error::invalid(format!("invalid restart policy: {only_on_failure}"))),
        }
    }

    /// The API's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
            Self::OnFailure(_) => "on-failure",
        }
    }

    /// Whether a run that ended with `code` is followed by another. `by_hand`: a person stopped or killed it;
    /// `restarts`: starts by the policy so far.
    #[must_use]
    pub fn again(self, code: i32, by_hand: bool, restarts: u32) -> bool {
        if by_hand {
            return false;
        }
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(most) => code != 0 && (most == 0 || restarts < most),
        }
    }

    /// Whether a daemon that comes up starts a container that it finds ended. `Always` means it: also one that was
    /// stopped by hand.
    #[must_use]
    pub fn at_daemon_start(self, code: i32, by_hand: bool, restarts: u32) -> bool {
        self == Self::Always || self.again(code, by_hand, restarts)
    }
}

/// How long to wait before the next start: 100 ms doubling up to a minute; a run of 10 s starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    const GOOD_RUN: Duration = Duration::from_secs(10);

    /// The pause after a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::GOOD_RUN {
            self.next = Self::FIRST;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(Self::LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn check_refused(name: &str, retries: i64, text: &str) {
        assert_eq!(RestartPolicy::parse(name, retries).expect_err(name).to_string(), text);
    }

    #[test]
    fn policies_are_checked() {
        assert_eq!(RestartPolicy::parse("", 0).unwrap(), RestartPolicy::No);
        assert_eq!(RestartPolicy::parse("on-failure", 3).unwrap(), RestartPolicy::OnFailure(3));
        check_refused(
            "bad",
            0,
            "invalid restart policy: unknown policy 'bad'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        );
        check_refused("on-failure", -1, "invalid restart policy: maximum retry count cannot be negative");
        check_refused(
            "always",
            3,
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        );
    }

    #[test]
    fn when_to_start_again() {
        let check = |policy: RestartPolicy, code, by_hand, restarts, again| {
            assert_eq!(
                policy.again(code, by_hand, restarts),
                again,
                "{policy:?} {code} {by_hand} {restarts}"
            );
        };
        check(RestartPolicy::No, 1, false, 0, false);
        check(RestartPolicy::Always, 0, false, 99, true);
        check(RestartPolicy::Always, 0, true, 0, false);
        check(RestartPolicy::UnlessStopped, 0, false, 0, true);
        check(RestartPolicy::OnFailure(0), 0, false, 0, false);
        check(RestartPolicy::OnFailure(0), 1, false, 1000, true);
        check(RestartPolicy::OnFailure(2), 1, false, 1, true);
        check(RestartPolicy::OnFailure(2), 1, false, 2, false);
        assert!(RestartPolicy::Always.at_daemon_start(0, true, 0));
        assert!(!RestartPolicy::UnlessStopped.at_daemon_start(0, true, 0));
        assert!(RestartPolicy::UnlessStopped.at_daemon_start(0, false, 0));
        assert!(RestartPolicy::OnFailure(0).at_daemon_start(255, false, 0));
        assert!(!RestartPolicy::No.at_daemon_start(255, false, 0));
    }

    #[test]
    fn pauses_double_to_a_minute_and_start_over_after_a_good_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..12).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(backoff.after(Duration::from_secs(10)).as_millis(), 100);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Named steps at which a test may let the process die, as a power cut or `kill -9` would, between two durable writes.
//!
//! Only builds with debug assertions look; a release passes through at no cost. `BERTH_DIE_AT=name` kills the process
//! when it reaches the step `name` for the first time, `BERTH_DIE_AT=name:3` the third time. Names are
//! `operation.what-has-just-been-done`, for example `pull.blob-renamed`.

/// Says that the process has come to the step `name`.
#[inline]
pub fn reached(name: &str) {
    #[cfg(debug_assertions)]
    armed::reached(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        name: String,
        left: AtomicU32,
    }

    /// The step and how often it is still passed, from the environment, read once.
    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED.get_or_init(|| std::env::var("BERTH_DIE_AT").ok().map(|text| parse(&text))).as_ref()
    }

    fn parse(text: &str) -> Armed {
        let (name, times) = match text.rsplit_once(':').map(|(name, times)| (name, times.parse())) {
            Some((name, Ok(times))) => (name, times),
            _ => (text, 1),
        };
        Armed { name: name.to_owned(), left: AtomicU32::new(times) }
    }

    pub(super) fn reached(name: &str) {
        let Some(armed) = armed().filter(|armed| armed.name == name) else { return };
        if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nothing is unwound, flushed or told.
            std::process::abort();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_step_has_a_name_and_a_count() {
            for (text, name, left) in [("a.b", "a.b", 1), ("a.b:3", "a.b", 3), ("a:b", "a:b", 1)] {
                let armed = parse(text);
                assert_eq!((armed.name.as_str(), armed.left.load(Ordering::SeqCst)), (name, left), "{text}");
            }
        }
    }
}

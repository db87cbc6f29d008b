// SPDX-License-Identifier: Apache-2.0
//! Names for containers that were given none: an adjective and the surname of somebody who moved goods,
//! ships or ideas about.

/// Number of names before a digit is put behind.
const TRIES: usize = 6;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "ample", "apt", "azure", "balmy", "blithe", "bold", "brave", "breezy", "brisk",
    "bright", "calm", "candid", "cheery", "civil", "clear", "clever", "coastal", "cosy", "crisp", "daring",
    "deft", "dewy", "eager", "earnest", "easy", "elated", "fair", "fleet", "fluent", "fond", "frank",
    "fresh", "frosty", "gallant", "genial", "gentle", "gilded", "glad", "golden", "grand", "handy", "happy",
    "hardy", "hearty", "honest", "humble", "jaunty", "jolly", "jovial", "keen", "kind", "lively", "loyal",
    "lucid", "lucky", "lunar", "mellow", "merry", "mighty", "mild", "neat", "nimble", "noble", "nordic",
    "patient", "placid", "plucky", "polite", "prompt", "proud", "quick", "quiet", "rapid", "ready", "regal",
    "robust", "rosy", "rugged", "sage", "sandy", "serene", "sharp", "silent", "silver", "sleek", "smart",
    "snug", "solar", "sound", "spry", "steady", "still", "stout", "sturdy", "sunny", "swift", "tender",
    "tidal", "tidy", "tranquil", "trusty", "upbeat", "valiant", "vivid", "warm", "wily", "windy", "wise",
    "witty", "zesty",
];

const SURNAMES: &[&str] = &[
    "amundsen",
    "anning",
    "baret",
    "barentsz",
    "bath",
    "battuta",
    "beaufort",
    "bering",
    "bly",
    "bonny",
    "bougainville",
    "bowditch",
    "brahe",
    "brunel",
    "cabot",
    "cartier",
    "champlain",
    "chichester",
    "columbus",
    "cook",
    "coleman",
    "cousteau",
    "cunard",
    "dampier",
    "darwin",
    "davis",
    "drake",
    "earhart",
    "earle",
    "elcano",
    "ellms",
    "eratosthenes",
    "ericson",
    "fitzroy",
    "flinders",
    "franklin",
    "frobisher",
    "gagarin",
    "gama",
    "gilbert",
    "halley",
    "hanno",
    "harrison",
    "henson",
    "heyerdahl",
    "hillary",
    "hudson",
    "humboldt",
    "ibsen",
    "jemison",
    "johnson",
    "kingsley",
    "kirk",
    "knox",
    "kruzenshtern",
    "laperouse",
    "leif",
    "livingstone",
    "lovell",
    "mackenzie",
    "magellan",
    "mallory",
    "marshall",
    "maury",
    "mclean",
    "mercator",
    "moitessier",
    "munk",
    "nansen",
    "nobile",
    "norgay",
    "ochoa",
    "orellana",
    "park",
    "parry",
    "peary",
    "piccard",
    "polo",
    "ponce",
    "ptolemy",
    "pytheas",
    "quiros",
    "raleigh",
    "ride",
    "ross",
    "sacagawea",
    "scott",
    "shackleton",
    "slocum",
    "soto",
    "speke",
    "stark",
    "stephenson",
    "tabei",
    "tasman",
    "tereshkova",
    "tharp",
    "torres",
    "vancouver",
    "vespucci",
    "wallis",
    "watt",
    "weddell",
    "wegener",
    "xuanzang",
    "zarco",
    "zheng",
];

/// Names to try in turn, from random bytes: the first [`TRIES`] bare, then ever more with a number.
pub(crate) fn candidates(seed: u64) -> impl Iterator<Item = String> {
    let mut state = seed;
    (0usize..).map(move |n| {
        // Knuth's MMIX generator: spread is all that is asked of it.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick =
            |list: &[&'static str], bits: u64| list[usize::try_from(bits).unwrap_or(usize::MAX) % list.len()];
        let adjective = pick(ADJECTIVES, (state >> 33) & 0xffff);
        let surname = pick(SURNAMES, state >> 49);
        if n < TRIES { format!("{adjective}_{surname}") } else { format!("{adjective}_{surname}{n}") }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_names_and_differ() {
        let names: BTreeSet<String> = (0..1000).flat_map(|seed| candidates(seed * 7919).take(1)).collect();
        assert!(names.len() > 800, "only {} of 1000 differ", names.len());
        for name in candidates(1).take(100) {
            berth_domain::container::check_name(&name).expect(&name);
        }
        assert_eq!(candidates(3).take(500).collect::<BTreeSet<_>>().len(), 500);
    }
}

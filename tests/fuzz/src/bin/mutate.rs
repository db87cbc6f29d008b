// SPDX-License-Identifier: Apache-2.0
//! Runs targets on their corpus and on what becomes of it by small changes: `mutate SECONDS [TARGET...]`.
//!
//! It is not guided by coverage, as cargo-fuzz is; it runs on the stable compiler with nothing installed. Inputs that break
//! a target are left in `tests/fuzz/crashes`.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_fuzz::TARGETS;

/// Inputs grow no longer than this.
const LONGEST: usize = 256 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: u64 = arguments.first().and_then(|s| s.parse().ok()).unwrap_or(60);
    let picked = &arguments[1.min(arguments.len())..];
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut failed = false;
    for (name, target) in TARGETS {
        if !picked.is_empty() && !picked.iter().any(|p| p == name) {
            continue;
        }
        let seeds = corpus(&top.join("corpus").join(name));
        assert!(!seeds.is_empty(), "{name} has no corpus");
        // A seed that time gave is told, so that a run can be done again.
        let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |d| d.subsec_nanos().into())
        });
        let mut random = Random(seed | 1);
        let (until, mut runs) = (Instant::now() + Duration::from_secs(seconds), 0_u64);
        let mut next = seeds.iter().cloned();
        while Instant::now() < until {
            let input = next.next().unwrap_or_else(|| mutated(&seeds, &mut random));
            runs += 1;
            if catch_unwind(|| target(&input)).is_err() {
                let crashes = top.join("crashes");
                std::fs::create_dir_all(&crashes).expect("a folder for crashes");
                let file = crashes.join(format!("{name}-{seed}-{runs}"));
                std::fs::write(&file, &input).expect("keeping the input");
                eprintln!("{name} broke; the input is in {}", file.display());
                failed = true;
                break;
            }
        }
        println!("{name}: {runs} inputs in {seconds} s (FUZZ_SEED={seed})");
    }
    std::process::exit(i32::from(failed));
}

fn corpus(dir: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// xorshift: what is wanted is variety, not secrecy.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        let length = 1 + random.below(64);
        let end = (at + length).min(input.len());
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => {
                input[at] = [0, 0xff, b'/', b'.', b'"', b'9', 0x7f, b' '][random.below(8)]
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let to = random.below(input.len());
                input.splice(to..to, piece);
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let until = (from + length * 16).min(other.len());
                input.splice(at..end, other[from..until].iter().copied());
            }
            // Whole blocks of a tar change places.
            5 if input.len() >= 1024 => {
                let (a, b) = (random.below(input.len() / 512) * 512, random.below(input.len() / 512) * 512);
                for n in 0..512 {
                    input.swap(a + n, b + n);
                }
            }
            6 => {
                const WORDS: [&[u8]; 8] = [
                    b"../",
                    b"/",
                    b".wh.",
                    b".wh..wh..opq",
                    b"77777777777",
                    b"18446744073709551615",
                    b"null",
                    b"{\"a\":[]}",
                ];
                input.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied());
            }
            7 => input.truncate(at),
            _ => {
                for byte in &mut input[at..end] {
                    *byte = u8::try_from(random.next() & 0xff).unwrap_or(0);
                }
            }
        }
    }
    input.truncate(LONGEST);
    // Headers whose sum is wrong are refused at once: most are given a right one.
    if random.below(4) > 0 {
        let magic = |block: &[u8]| block.len() == 512 && &block[257..262] == b"ustar";
        for block in input.chunks_mut(512).filter(|block| magic(block)) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    input
}

// SPDX-License-Identifier: Apache-2.0
//! Pulls a reference, or loads an archive, into a data root and tells how long it took:
//!
//! ```sh
//! cargo run --release -p berth-image --example pull_speed -- localhost:5000/app:latest /mnt/scratch/root
//! cargo run --release -p berth-image --example pull_speed -- ./app.tar /mnt/scratch/root
//! ```
//! Measure on a journaled filesystem, from an empty data root. `tar -xf` of the same layers and `sync` are the
//! yardstick.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use berth_domain::progress::Sink;
use berth_domain::{Error, Result};
use berth_image::{Auth, Images, ImagesConfig, PullRequest};
use berth_registry::{Client, RegistryConfig};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(what), Some(root)) = (args.next(), args.next()) else {
        return Err(Error::invalid("a reference or an archive, and a data root"));
    };
    let images = Images::open(ImagesConfig::new(root), Client::new(RegistryConfig::default())?)?;
    let sink: Sink = Arc::new(|_| true);
    let started = Instant::now();
    let id = if Path::new(&what).is_file() {
        let file = tokio::fs::File::open(&what).await.map_err(|e| Error::io("opening", &what, e))?;
        let loaded = images.load(file, true, sink).await?;
        images.resolve(loaded.first().map_or("", String::as_str))?
    } else {
        let request =
            PullRequest { reference: what.parse()?, platform: None, auth: Auth::default(), all_tags: false };
        images.pull(request, sink).await?.image
    };
    let took = started.elapsed();
    let image = images.image(&id)?;
    println!("{} layers, {} MB unpacked, {:.2} s", image.layers.len(), image.size >> 20, took.as_secs_f64());
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! `ImageCommit`: an image of what a container has made of its own.
//!
//! Its layer is the container's upper directory and nothing else (the overlay is mounted without redirections and without
//! metadata-only copies, so that this directory says all): what is in volumes and binds is not in it, only the places where
//! they were mounted.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use berth_api::types::container_create::{ContainerConfig, StrSlice};
use berth_domain::{Error, EventKind, ImageId, Reference, Result, Status};
use berth_image::changes;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize as _;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::Engine;
use crate::container::put_archive::Arriving;
use crate::files::{blocking, write_whole};
use crate::handle::Handle;
use crate::merge;
use crate::tarball;

/// Pieces ahead of the image.
const AHEAD: usize = 8;
/// In the run directory while a container is frozen by its commit.
pub(crate) const COMMITTING: &str = "committing";

/// The commit has thawed it, or will not freeze it.
pub(crate) fn forget(marker: &Path) {
    match std::fs::remove_file(marker) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %marker.display(), %error, "removing the mark of a commit");
        }
        _ => {}
    }
}

/// What of a container's configuration an image has (image spec, config.md, and Docker's own).
const OF_AN_IMAGE: [&str; 13] = [
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// What is asked of a commit.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Instead of the container's configuration; what it leaves out is the container's.
    pub config: Option<ContainerConfig>,
    /// Dockerfile instructions on top of that.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Freeze the container meanwhile, if it runs.
    pub pause: bool,
    /// The image's name.
    pub name: Option<Reference>,
}

impl Engine {
    /// Makes an image of a container.
    ///
    /// # Errors
    ///
    /// No such container; it is being removed; a change that is no instruction for it; its files cannot be read.
    pub async fn image_commit(self: &Arc<Self>, name: &str, options: CommitOptions) -> Result<ImageId> {
        let handle = self.index.resolve(name)?;
        let engine = Arc::clone(self);
        // Its own task: a client that hangs up does not leave the container frozen.
        tokio::spawn(async move { engine.commit(&handle, options).await })
            .await
            .map_err(|error| Error::internal("committing a container ended early").because(error))?
    }

    async fn commit(self: &Arc<Self>, handle: &Arc<Handle>, options: CommitOptions) -> Result<ImageId> {
        let now = handle.now();
        let refused = match now.state.status {
            Status::Dead => Some("dead"),
            Status::Removing => Some("being removed"),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(Error::conflict(format!("cannot commit container {}: it is {what}", now.id)));
        }
        let config = config(options.config, &options.changes, &now.config)?;
        let frozen = options.pause && now.state.status == Status::Running;
        let marker = now.paths.run_dir.join(COMMITTING);
        if frozen {
            // Written first: a daemon that finds it knows that nobody asked for the container to stay frozen.
            write_whole(&marker, b"", 0o600)?;
            self.container_pause(now.id.as_str()).await.inspect_err(|_| forget(&marker))?;
        }
        let request = berth_image::CommitRequest {
            parent: Some(now.image.clone()),
            platform: now.platform.clone(),
            config,
            author: options.author,
            comment: options.comment.clone(),
            created_by: now.config.cmd.as_ref().map(StrSlice::to_vec).unwrap_or_default().join(" "),
            name: options.name.clone(),
        };
        let (sender, archive) = mpsc::channel(AHEAD);
        let upper = now.paths.upper.clone();
        let ids = now.id_map.clone();
        let reading = blocking(move || {
            let read = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let upper: OwnedFd =
                rustix::fs::open(&upper, read, Mode::empty()).map_err(|e| Error::io("opening", &upper, e))?;
            tarball::send(sender, &upper, b"", tarball::Of::Upper, ids);
            Ok(())
        });
        let engine = Arc::clone(self);
        let images = Arc::clone(&engine.backends.images);
        let making = blocking(move || images.commit(request, Box::new(Arriving::new(archive))));
        // Frozen no longer than its files are read.
        let thawed = async {
            let read = reading.await;
            let thawed = if frozen { self.container_unpause(now.id.as_str()).await } else { Ok(()) };
            if let Err(error) = thawed {
                // It was thawed or killed by hand.
                tracing::warn!(container = %now.id, error = error.chain(), "thawing a committed container");
            }
            if frozen {
                forget(&marker);
            }
            read
        };
        let (read, made) = tokio::join!(thawed, making);
        // What went wrong in reading is what the archive ended with.
        let made = made?;
        read?;
        let reference =
            options.name.map(Reference::or_latest).map_or_else(String::new, |name| name.familiar());
        if !reference.is_empty() {
            let attributes = [("name".to_owned(), reference.clone())].into();
            self.bus.publish(EventKind::Image, "tag", made.id.as_str(), attributes);
        }
        self.container_event(
            &handle.now(),
            "commit",
            &[("comment", options.comment), ("imageID", made.id.to_string()), ("imageRef", reference)],
        );
        Ok(made.id)
    }
}

/// The `config` of the new image.
fn config(
    asked: Option<ContainerConfig>,
    instructions: &[String],
    container: &ContainerConfig,
) -> Result<Value> {
    let broken = |error| Error::internal("the container's configuration cannot be written").because(error);
    let base = asked.unwrap_or_else(|| container.clone());
    let mut value = serde_json::to_value(base).map_err(broken)?;
    changes::apply(&mut value, instructions)?;
    let mut config = ContainerConfig::deserialize(value).map_err(broken)?;
    merge::merge(&mut config, container);
    let Value::Object(mut all) = serde_json::to_value(config).map_err(broken)? else {
        return Err(Error::internal("the container's configuration is no object"));
    };
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    let kept: Map<String, Value> = OF_AN_IMAGE
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), all.remove(*key)?)))
        .filter(|(_, value)| !empty(value))
        .collect();
    Ok(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_go_over_the_override_and_that_over_the_container() {
        let of = |value: Value| serde_json::from_value::<ContainerConfig>(value).unwrap();
        let container = of(json!({
            "Hostname": "h", "User": "app", "Env": ["A=1", "B=2"], "Cmd": ["sleep", "1"], "Labels": {"l": "1"},
            "WorkingDir": "/w", "Image": "busybox", "Tty": true,
        }));
        let plain = config(None, &[], &container).unwrap();
        assert_eq!(
            plain,
            json!({"User": "app", "Env": ["A=1", "B=2"], "Cmd": ["sleep", "1"], "Labels": {"l": "1"}, "WorkingDir": "/w"})
        );
        let asked = of(json!({"User": "other", "Env": ["A=9"]}));
        let changed =
            config(Some(asked), &["ENV C=$A".into(), "ENTRYPOINT [\"e\"]".into()], &container).unwrap();
        assert_eq!(changed["User"], "other");
        assert_eq!(changed["Env"], json!(["A=9", "C=9", "B=2"]));
        assert_eq!((&changed["Entrypoint"], &changed["Cmd"]), (&json!(["e"]), &Value::Null));
        assert!(config(None, &["FROM scratch".into()], &container).is_err());
    }
}

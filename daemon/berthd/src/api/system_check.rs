// SPDX-License-Identifier: Apache-2.0
//! Whether the store is whole.

use std::collections::HashMap;
use std::sync::Arc;

use berth_domain::progress::Progress;
use berth_domain::{Error, ImageId, Status};
use berth_image::CheckRequest;

use crate::app::App;
use crate::http::{Answer, Call, progress};
use crate::wire;

/// `POST /berth/system/check?repair=`: reads all that the store names and tells what is damaged, a line each. The last line
/// sums it up; the stream ends in an error when something is damaged and stays so.
pub(crate) async fn berth_system_check(app: Arc<App>, call: Call) -> Answer {
    let repair = call.query.bool("repair");
    let request = CheckRequest { repair, auth: wire::auth::from_headers(call.headers()) };
    let work = move |sink: berth_domain::progress::Sink| async move {
        let told = Arc::clone(&sink);
        let report = tokio::task::spawn_blocking(move || {
            let mut users: HashMap<ImageId, Vec<String>> = HashMap::new();
            for snapshot in app.engine.snapshots() {
                if matches!(snapshot.state.status, Status::Running | Status::Paused | Status::Restarting) {
                    users.entry(snapshot.image.clone()).or_default().push(snapshot.name.clone());
                }
            }
            let running = |id: &ImageId| users.get(id).cloned().unwrap_or_default();
            app.images.check(&request, &running, &mut |image| {
                told(Progress::status("", format!("Checking {image}")))
            })
        });
        let report =
            report.await.map_err(|e| Error::internal("checking the store ended abnormally").because(e))??;
        for damage in &report.damages {
            let outcome = match &damage.repaired {
                Ok(()) => "repaired".to_owned(),
                Err(_) if !repair => "damaged".to_owned(),
                Err(why) => format!("not repaired: {why}"),
            };
            sink(Progress::status("", format!("{}: {}: {outcome}", damage.image, damage.what)));
        }
        let left = report.damages.iter().filter(|d| d.repaired.is_err()).count();
        sink(Progress::status(
            "",
            format!(
                "Checked {} images, {} blobs, {} layers: {} damaged, {} repaired",
                report.images,
                report.blobs,
                report.layers,
                report.damages.len(),
                report.damages.len() - left
            ),
        ));
        match left {
            0 => Ok(()),
            _ if repair => Err(Error::internal(format!("{left} damaged and not repaired"))),
            _ => Err(Error::internal(format!(
                "{left} damaged: `berth system check --repair` mends what can be mended"
            ))),
        }
    };
    progress::stream(work).await
}

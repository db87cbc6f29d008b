// SPDX-License-Identifier: Apache-2.0
//! `ContainerLogs`.

use http_body_util::BodyExt as _;

use super::session::Inspected;
use crate::api::Ask;
use crate::cli::Context;
use crate::fail::Result;
use crate::flags::duration::moment;
use crate::term::pump::Output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let api = context.api().await?;
    let container = Inspected::get(&api, &args.container).await?;
    let now = jiff::Timestamp::now();
    let time = |text: &Option<String>| text.as_deref().map(|t| moment(t, now)).transpose();
    let ask = Ask::get(format!("/containers/{}/logs", container.id))
        .flag("details", args.details)
        .flag("follow", args.follow)
        .with("stdout", "1")
        .with("stderr", "1")
        .maybe("since", time(&args.since)?.as_deref())
        .maybe("until", time(&args.until)?.as_deref())
        .maybe("tail", Some(&args.tail))
        .flag("timestamps", args.timestamps);
    let mut body = api.stream(ask).await?.into_body();
    let mut output = Output::new(!container.config.tty);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| api.broken(&e))?.into_data() {
            output.write(&data)?;
        }
    }
    Ok(0)
}

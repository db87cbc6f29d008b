// SPDX-License-Identifier: Apache-2.0
//! `ContainerAttach` to what runs already.

use super::session::{Attendance, Exit, Inspected};
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::flags;
use crate::term::pump::Ended;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(
        long, value_name = "bool", default_value = "true", default_missing_value = "true",
        num_args = 0..=1, require_equals = true
    )]
    sig_proxy: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let sig_proxy = flags::boolean(&args.sig_proxy).ok_or_else(|| {
        Fail::new(format!("invalid argument {:?} for \"--sig-proxy\" flag", args.sig_proxy)).code(125)
    })?;
    let api = context.api().await?;
    let container = Inspected::get(&api, &args.container).await?;
    if !container.state.running {
        return Err(Fail::new("cannot attach to a stopped container, start it first"));
    }
    if container.state.paused {
        return Err(Fail::new("cannot attach to a paused container, unpause it first"));
    }
    if container.state.restarting {
        return Err(Fail::new("cannot attach to a restarting container, wait until it is running"));
    }
    let attendance = Attendance {
        stdin: !args.no_stdin && container.config.open_stdin,
        stdout: true,
        stderr: true,
        tty: container.config.tty,
        sig_proxy,
        detach_keys: args.detach_keys,
    };
    attendance.check_terminal()?;
    let exit = Exit::watch(&api, &container.id, None).await?;
    let mut attached = attendance.attach(&api, &container.id).await?;
    let ended = attached.stay(&api, Some(&container.id), &format!("/containers/{}", container.id)).await;
    attached.leave();
    match ended? {
        Ended::Detached => Err(Fail::new("read escape sequence")),
        Ended::Output => exit.code().await,
    }
}

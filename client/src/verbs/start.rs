// SPDX-License-Identifier: Apache-2.0
//! `ContainerStart`, with or without attaching.

use super::session::{Attendance, Exit, Inspected};
use crate::api::{Api, Ask};
use crate::cli::Context;
use crate::fail::{Fail, Result, each};
use crate::term::pump::Ended;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let attend = args.attach || args.interactive;
    if attend && args.containers.len() > 1 {
        return Err(Fail::new("you cannot start and attach multiple containers at once"));
    }
    let api = context.api().await?;
    if attend {
        return attended(&api, &args).await;
    }
    let (api, keys) = (&api, &args.detach_keys);
    let failed = std::cell::RefCell::new(Vec::new());
    let remembered = &failed;
    let outcome = each(&args.containers, |name| async move {
        let ask = Ask::post(format!("/containers/{name}/start")).maybe("detachKeys", Some(keys));
        if let Err(fail) = api.done(ask).await {
            remembered.borrow_mut().push(name);
            return Err(fail);
        }
        Ok(Some(name))
    })
    .await;
    outcome.map_err(|fail| {
        let names = failed.borrow().join(", ");
        Fail { message: format!("Error: failed to start containers: {names}"), ..fail }
    })?;
    Ok(0)
}

async fn attended(api: &Api, args: &Args) -> Result<u8> {
    let container = Inspected::get(api, &args.containers[0]).await?;
    let attendance = Attendance {
        stdin: args.interactive && container.config.open_stdin,
        stdout: true,
        stderr: true,
        tty: container.config.tty,
        sig_proxy: true,
        detach_keys: args.detach_keys.clone(),
    };
    attendance.check_terminal()?;
    let mut attached = attendance.attach(api, &container.id).await?;
    let condition = if container.host_config.auto_remove { "removed" } else { "next-exit" };
    let exit = Exit::watch(api, &container.id, Some(condition)).await?;
    if let Err(fail) = api.done(Ask::post(format!("/containers/{}/start", container.id))).await {
        attached.leave();
        if container.host_config.auto_remove {
            exit.over().await;
        }
        return Err(fail);
    }
    let ended = attached.stay(api, Some(&container.id), &format!("/containers/{}", container.id)).await;
    attached.leave();
    match ended? {
        Ended::Detached => {
            eprintln!("read escape sequence");
            Ok(0)
        }
        Ended::Output => exit.code().await,
    }
}

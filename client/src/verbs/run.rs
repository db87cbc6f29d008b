// SPDX-License-Identifier: Apache-2.0
//! `run`: `ContainerCreate`, `ContainerAttach`, `ContainerWait`, `ContainerStart`, in this order.

use std::io::Write as _;

use super::create;
use super::session::{Attendance, Exit, start_code};
use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::flags::build;
use crate::flags::container::ContainerFlags;
use crate::term::pump::Ended;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Proxy received signals to the process
    #[arg(
        long, value_name = "bool", default_value = "true", default_missing_value = "true",
        num_args = 0..=1, require_equals = true
    )]
    sig_proxy: String,
    #[command(flatten)]
    flags: ContainerFlags,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    attend(context, args).await.map_err(|fail| {
        if fail.message.is_empty() {
            return fail;
        }
        let hint = "Run 'berth run --help' for more information";
        Fail { message: format!("berth: {}\n\n{hint}", fail.message), ..fail }
    })
}

async fn attend(context: &Context, args: Args) -> Result<u8> {
    // Until the container runs, every failure is ours and not the container's.
    let ours = |fail: Fail| if fail.code == 1 { fail.code(125) } else { fail };
    let sig_proxy = crate::flags::boolean(&args.sig_proxy).ok_or_else(|| {
        Fail::new(format!("invalid argument {:?} for \"--sig-proxy\" flag", args.sig_proxy)).code(125)
    })?;
    let streams = build::attached(&args.flags, args.detach).map_err(ours)?;
    let attendance = Attendance {
        stdin: streams[0],
        stdout: streams[1],
        stderr: streams[2],
        tty: args.flags.tty,
        sig_proxy,
        detach_keys: args.detach_keys,
    };
    attendance.check_terminal()?;
    let body = create::body(&args.flags, streams).map_err(ours)?;
    let api = context.api().await.map_err(ours)?;
    let id = create::create(context, &api, &args.flags, body).await.map_err(ours)?;
    let start =
        Ask::post(format!("/containers/{id}/start")).maybe("detachKeys", Some(&attendance.detach_keys));
    let not_started = |fail: Fail| {
        let code = start_code(&fail.message);
        fail.code(code)
    };
    if args.detach {
        api.done(start).await.map_err(not_started)?;
        writeln!(std::io::stdout(), "{id}")?;
        return Ok(0);
    }
    let mut attached = attendance.attach(&api, &id).await.map_err(ours)?;
    let condition = if args.flags.rm { "removed" } else { "next-exit" };
    let exit = Exit::watch(&api, &id, Some(condition)).await.map_err(ours)?;
    if let Err(fail) = api.done(start).await {
        attached.leave();
        if args.flags.rm {
            // Whoever reads our exit code may use the name again.
            exit.over().await;
        }
        return Err(not_started(fail));
    }
    let ended = attached.stay(&api, Some(&id), &format!("/containers/{id}")).await;
    attached.leave();
    match ended? {
        Ended::Detached => {
            eprintln!("read escape sequence");
            Ok(0)
        }
        Ended::Output => exit.code().await,
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `ContainerExec`, `ExecStart`, `ExecInspect`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::session::Attendance;
use crate::api::Ask;
use crate::cli::Context;
use crate::fail::{Fail, Result};
use crate::flags::{env, some};
use crate::term;
use crate::term::pump::Ended;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    user: String,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    workdir: String,
    /// Container, then the command to run in it and its arguments
    #[arg(required = true, trailing_var_arg = true, num_args = 2.., value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: String,
    privileged: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach: bool,
    detach_keys: String,
    env: Option<Vec<String>>,
    working_dir: String,
    cmd: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    detach: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(default)]
    exit_code: Option<i64>,
    #[serde(default)]
    running: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let (container, command) =
        args.container_and_command.split_first().ok_or_else(|| Fail::new("a container is needed"))?;
    let attached = !args.detach;
    let attendance = Attendance {
        stdin: attached && args.interactive,
        stdout: attached,
        stderr: attached,
        tty: args.tty,
        // Signals are for what the container runs, not for what is run beside it.
        sig_proxy: false,
        detach_keys: args.detach_keys.clone(),
    };
    attendance.check_terminal()?;
    let keys = berth_api::detach::parse(&args.detach_keys).map_err(|e| Fail::new(e.to_string()))?;
    let console_size =
        if args.tty { term::size(std::io::stdout()).map(|(rows, columns)| [rows, columns]) } else { None };
    let config = Config {
        user: args.user,
        privileged: args.privileged,
        tty: args.tty,
        console_size,
        attach_stdin: attendance.stdin,
        attach_stdout: attached,
        attach_stderr: attached,
        detach: args.detach,
        detach_keys: args.detach_keys,
        env: some(&env::env(&args.env_file, &args.env, &|name| std::env::var(name).ok())?),
        working_dir: args.workdir,
        cmd: command.to_vec(),
    };
    let api = context.api().await?;
    let ask = Ask::post(format!("/containers/{container}/exec")).json(&config)?;
    let Created { id } = api.decoded(ask).await?;
    let start = Start { detach: args.detach, tty: args.tty, console_size };
    let start = Ask::post(format!("/exec/{id}/start")).json(&start)?;
    if args.detach {
        api.done(start).await?;
        return Ok(0);
    }
    let hijacked = api.hijack(start).await?;
    let mut attached = attendance.take_over(hijacked, keys)?;
    let ended = attached.stay(&api, None, &format!("/exec/{id}")).await;
    attached.leave();
    if ended? == Ended::Detached {
        return Err(Fail::new("read escape sequence"));
    }
    let inspected: Inspected = api.decoded(Ask::get(format!("/exec/{id}/json"))).await?;
    match inspected.exit_code {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        None if inspected.running => Err(Fail::new("the command closed its output but still runs")),
        None => Ok(0),
    }
}

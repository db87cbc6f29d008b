// SPDX-License-Identifier: Apache-2.0
//! Running health checks: one task beside each running container that has one.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_domain::{ContainerId, Signal};
use berth_shim_proto::Target;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::Engine;
use crate::exec::{ExecConfig, Phase, start::ExecStart};
use crate::handle::{Command, Verb};
use crate::health::{HealthCheck, OUTPUT};
use crate::snapshot::{Health, Probe};
use crate::task::Task;

/// How long a killed probe may take to end.
const AFTER_KILL: Duration = Duration::from_secs(5);

impl Task {
    /// Begins to probe a container that has just been started.
    pub(crate) fn begin_probing(&mut self) {
        let Some(check) = self.asked.health.clone() else { return };
        self.now.state.health = Some(Arc::new(Health::starting()));
        // The prober ends where it sees no health, and it may look at once.
        self.publish();
        let Some(up) = &mut self.up else { return };
        let (engine, id, since) = (Arc::clone(&self.engine), self.now.id.clone(), up.since);
        up.prober = Some(tokio::spawn(async move { probe_for_ever(&engine, &id, &check, since).await }));
    }

    /// Takes in the result of a probe.
    pub(crate) fn probed(&mut self, probe: Probe) {
        let (Some(check), Some(up), Some(health)) = (&self.asked.health, &self.up, &self.now.state.health)
        else {
            return;
        };
        let before = health.status;
        let health = check.judge((**health).clone(), probe, up.since.elapsed());
        let after = health.status;
        self.now.state.health = Some(Arc::new(health));
        self.publish();
        if after != before {
            self.event(&format!("health_status: {}", after.as_str()), &[]);
        }
    }
}

async fn probe_for_ever(engine: &Arc<Engine>, id: &ContainerId, check: &HealthCheck, since: Instant) {
    loop {
        let Some(handle) = engine.index.get(id) else { return };
        let now = handle.now();
        let Some(health) = now.state.health.as_deref() else { return };
        tokio::time::sleep(check.pause(health, since.elapsed())).await;
        // A frozen container cannot answer, and is not ill for that.
        if handle.now().state.status == berth_domain::Status::Paused {
            continue;
        }
        let started_at = Timestamp::now();
        let (exit_code, output) = match run(engine, id, check).await {
            Ok(result) => result,
            Err(error) => (-1, error.chain()),
        };
        let probe = Probe { started_at, ended_at: Timestamp::now(), exit_code, output };
        let command = Command { asked: id.to_string(), verb: Verb::Probed(probe) };
        if handle.commands.send(command).await.is_err() {
            return;
        }
    }
}

async fn run(
    engine: &Arc<Engine>,
    id: &ContainerId,
    check: &HealthCheck,
) -> berth_domain::Result<(i32, String)> {
    let config = ExecConfig {
        cmd: check.command.clone(),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecConfig::default()
    };
    let exec = engine.exec_create(id.as_str(), config).await?;
    let mut phase = engine.execs.watch(exec.as_str())?;
    let ticket = engine.exec_start(exec.as_str(), ExecStart::default()).await?;
    let socket = |error: io::Error| berth_domain::Error::internal("a probe's output").because(error);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(socket)?;
    ours.set_nonblocking(true).map_err(socket)?;
    let ours = UnixStream::from_std(ours).map_err(socket)?;
    ticket.join(theirs.into(), Vec::new()).await?;
    let mut output = Vec::new();
    let work = async {
        read_some(ours, &mut output).await;
        phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.map(|phase| *phase)
    };
    let ended = tokio::time::timeout(check.timeout, work).await;
    let (exit_code, output) = match ended {
        Ok(Ok(Phase::Ended(code))) => (code, readable(&output)),
        Ok(_) => (-1, "the container ended".to_owned()),
        Err(_) => {
            kill(engine, id, exec.as_str(), &mut phase).await;
            (-1, format!("Health check exceeded timeout ({:?})", check.timeout))
        }
    };
    Ok((exit_code, output))
}

/// Reads to the end and keeps the beginning. Output is framed: the probe has no terminal.
async fn read_some(mut socket: UnixStream, output: &mut Vec<u8>) {
    let mut header = [0; berth_api::stdcopy::HEADER];
    while socket.read_exact(&mut header).await.is_ok() {
        let [_, _, _, _, a, b, c, d] = header;
        let mut left = u64::from(u32::from_be_bytes([a, b, c, d]));
        let mut chunk = [0; 4096];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(chunk.len()).min(chunk.len());
            match socket.read(&mut chunk[..want]).await {
                Ok(n) if n > 0 => {
                    left = left.saturating_sub(u64::try_from(n).unwrap_or(0));
                    let room = OUTPUT.saturating_sub(output.len()).min(n);
                    output.extend_from_slice(&chunk[..room]);
                }
                _ => return,
            }
        }
    }
}

fn readable(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

async fn kill(
    engine: &Arc<Engine>,
    id: &ContainerId,
    exec: &str,
    phase: &mut tokio::sync::watch::Receiver<Phase>,
) {
    let Some(shim) = engine.index.get(id).and_then(|handle| handle.door.shim()) else { return };
    let killing = async {
        shim.signal(Target::Exec(exec.to_owned()), Signal::KILL.number(), false).await?;
        Ok::<_, berth_runtime::ShimError>(phase.wait_for(|p| matches!(p, Phase::Ended(_))).await.is_ok())
    };
    match tokio::time::timeout(AFTER_KILL, killing).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a probe that took too long has ended by itself"),
        Err(_) => tracing::warn!(exec, "a probe that took too long cannot be killed"),
    }
}

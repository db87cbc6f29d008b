// SPDX-License-Identifier: Apache-2.0
//! What the daemon may ask.

use std::os::fd::{AsFd, OwnedFd};

use berth_shim_proto::{
    Attach, Event, Exec, Failure, FailureKind, Launch, Reply, Request, Target, TerminalSize,
};

use serde_json::value::RawValue;

use crate::container::{Container, Fds, INIT, Pending, Then};
use crate::link::Asker;
use crate::process::Process;
use crate::runtime::{Outcome, Runtime, Started, internal, invalid, launch_failure};
use crate::say::say;
use crate::shim::{Shim, not_running, nothing};
use crate::stdio::{Standing, Stdio};

/// Descriptors that an exec may hold: a pidfd, its streams, a terminal's two sides, its client.
const FDS_OF_EXEC: u64 = 8;

impl Shim {
    /// Answers one request, at once or when it is done.
    pub(crate) fn serve(&mut self, asker: Asker, request: &RawValue, fds: Vec<OwnedFd>) {
        match serde_json::from_str::<Request>(request.get()) {
            Ok(request) => match self.attempt(asker, request, Fds::new(fds)) {
                Ok(Some(reply)) => self.link.reply(asker, reply),
                Ok(None) => {}
                Err(failure) => self.link.reply(asker, Reply::Failed(failure)),
            },
            Err(error) => {
                let message = format!("this shim does not know the request: {error}");
                let failure = Failure { kind: FailureKind::Unsupported, message };
                self.link.reply(asker, Reply::Failed(failure));
            }
        }
    }

    /// `None`: the answer was given, or will be.
    fn attempt(&mut self, asker: Asker, request: Request, mut fds: Fds) -> Outcome<Option<Reply>> {
        match request {
            Request::Launch(launch) => return self.launch(asker, &launch, fds).map(|()| None),
            Request::State => {
                return Ok(Some(Reply::State(
                    self.container.as_ref().map_or_else(nothing, Container::state),
                )));
            }
            _ => {}
        }
        let container = self.container.as_mut().ok_or_else(|| not_running("the container"))?;
        match request {
            Request::Launch(_) | Request::State => Ok(None),
            Request::Held => {
                let (reply, held) = container.held();
                self.link.reply_with(asker, reply, &held);
                Ok(None)
            }
            Request::Attach(attach) => {
                let socket = fds.take(attach.fd)?;
                let init = container.processes.get_mut(&INIT);
                // When it has ended and all is read, there is nothing to join: the socket closes.
                let detached = match init.filter(|init| !(init.code.is_some() && init.stdio.drained())) {
                    Some(init) => {
                        let standing = if attach.from_start { Standing::Pipe } else { Standing::Onlooker };
                        init.stdio.attach(socket, &attach, standing)
                    }
                    None => Stdio::refuse(socket, &attach),
                };
                self.link.reply(asker, Reply::Done);
                if detached {
                    self.link.event(Event::Detached { target: Target::Init });
                }
                Ok(None)
            }
            Request::Exec(exec) => self.exec(asker, &exec, fds),
            Request::Resize { target, height, width } => {
                let process = container.running(&target)?;
                process
                    .stdio
                    .resize(TerminalSize { height, width })
                    .map_err(|e| invalid(format!("resize: {e}")))?;
                Ok(Some(Reply::Done))
            }
            Request::Signal { target, signal, all } => container.signal(asker, &target, signal, all),
            Request::Freeze { frozen } => container.freeze(asker, frozen),
            Request::Update { resources } => container.update(asker, &resources),
        }
    }

    fn launch(&mut self, asker: Asker, launch: &Launch, fds: Fds) -> Outcome<()> {
        if self.container.is_some() {
            return Err(invalid("a container was launched already"));
        }
        // Whatever comes of it, there is no second attempt.
        self.over = true;
        let birth = Container::launch(launch, fds)?;
        self.over = false;
        let pid = birth.container.init_pid;
        self.link.reply(asker, Reply::Launched { pid, warnings: birth.warnings });
        if birth.detached {
            self.link.event(Event::Detached { target: Target::Init });
        }
        self.listener = Some(birth.listener);
        self.container.insert(birth.container).settle();
        Ok(())
    }

    fn exec(&mut self, asker: Asker, exec: &Exec, mut fds: Fds) -> Outcome<Option<Reply>> {
        let Some(container) = &mut self.container else { return Err(not_running("the container")) };
        if container.key_of(&Target::Exec(exec.exec_id.clone())).is_some() {
            return Err(invalid(format!("there is an exec {} already", exec.exec_id)));
        }
        if container.frozen {
            return Err(not_running("a process in a frozen container"));
        }
        let room = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let running = (container.processes.len() + container.jobs.len()) as u64;
        if running + 1 > room / FDS_OF_EXEC {
            return Err(internal("exec", format!("{running} processes of the container run already")));
        }
        let client = match &exec.attach {
            Some(attach) => Some((fds.take(attach.fd)?, attach.clone())),
            None => None,
        };
        let init = container.running(&Target::Init)?;
        let pid = init.pid;
        let pidfd = init.pidfd.as_ref().ok_or_else(|| not_running("the container"))?;
        let pidfd = rustix::io::fcntl_dupfd_cloexec(pidfd, 3).map_err(|e| internal("pidfd", e))?;
        match &mut container.runtime {
            Runtime::Native(native) => {
                let started = native.exec(exec, pid, pidfd.as_fd())?;
                let pid = started.pid;
                let detached = container.add_exec(exec.exec_id.clone(), started, client);
                self.link.reply(asker, Reply::ExecStarted { pid });
                if detached {
                    self.link.event(Event::Detached { target: Target::Exec(exec.exec_id.clone()) });
                }
            }
            Runtime::Oci(oci) => {
                let starting = Box::new(oci.exec(exec, pid)?);
                let then = Then::Exec(starting, exec.exec_id.clone(), client);
                container.jobs.push(Pending { asker, then, late: false });
            }
        }
        Ok(None)
    }
}

impl Container {
    /// The process, if it has not ended.
    fn running(&mut self, target: &Target) -> Outcome<&mut Process> {
        let name = match target {
            Target::Init => "the container".to_owned(),
            Target::Exec(id) => format!("exec {id}"),
        };
        let process = self.key_of(target).and_then(|key| self.processes.get_mut(&key));
        process.filter(|process| process.code.is_none()).ok_or_else(|| not_running(&name))
    }

    /// Takes an exec in that was started. True if its client detached with the first thing it sent.
    pub(crate) fn add_exec(
        &mut self,
        id: String,
        started: Started,
        client: Option<(OwnedFd, Attach)>,
    ) -> bool {
        // Nobody but its first client can ever feed an exec.
        let mut stdio = Stdio::new(started.ends, None, true);
        let detached = client.is_some_and(|(socket, attach)| stdio.attach(socket, &attach, Standing::Pipe));
        let mut process = Process::new(Target::Exec(id), started.pid, started.pidfd, stdio);
        if let Some(place) = self.strays.iter().position(|(pid, _)| *pid == started.pid) {
            let stray = self.strays.remove(place);
            process.reaped(stray.map_or(255, |(_, code)| code));
        } else if process.pidfd.is_none() {
            process.reaped(255);
        }
        self.last_key += 1;
        self.processes.insert(self.last_key, process);
        detached
    }

    /// A process was reaped that is not known (yet).
    pub(crate) fn stray(&mut self, pid: i32, code: i32) {
        let expected = self.jobs.iter().any(|pending| matches!(pending.then, Then::Exec(..)));
        if !expected {
            self.strays.clear();
            return;
        }
        if self.strays.len() == 1024 {
            self.strays.pop_front();
        }
        self.strays.push_back((pid, code));
    }

    fn signal(&mut self, asker: Asker, target: &Target, signal: i32, all: bool) -> Outcome<Option<Reply>> {
        let number = signal;
        if !(1..=64).contains(&number) {
            return Err(invalid(format!("there is no signal {number}")));
        }
        let frozen = self.frozen;
        let process = self.running(target)?;
        let init = process.target == Target::Init;
        match &mut self.runtime {
            Runtime::Oci(oci) if init => {
                let job = oci.signal(number, all)?;
                let fatal = frozen && number == libc::SIGKILL;
                let then = if fatal { Then::Thawed(job) } else { Then::Done(job) };
                self.jobs.push(Pending { asker, then, late: false });
                return Ok(None);
            }
            Runtime::Native(native) if all => {
                native.cgroup().signal(number).map_err(launch_failure)?;
            }
            _ => {
                let process = self.running(target)?;
                let pidfd = process.pidfd.as_ref().ok_or_else(|| not_running("the process"))?;
                crate::sys::send_signal(pidfd.as_fd(), number).map_err(|error| {
                    match error.raw_os_error() {
                        Some(libc::ESRCH) => not_running("the process"),
                        _ => internal("signal", error),
                    }
                })?;
            }
        }
        if frozen && number == libc::SIGKILL {
            self.let_die();
        }
        Ok(Some(Reply::Done))
    }

    fn freeze(&mut self, asker: Asker, frozen: bool) -> Outcome<Option<Reply>> {
        self.running(&Target::Init)?;
        match &mut self.runtime {
            Runtime::Native(native) => {
                native.cgroup().freeze(frozen).map_err(launch_failure)?;
                self.frozen = frozen;
                Ok(Some(Reply::Done))
            }
            Runtime::Oci(oci) => {
                let then = Then::Frozen(oci.freeze(frozen)?, frozen);
                self.jobs.push(Pending { asker, then, late: false });
                Ok(None)
            }
        }
    }

    fn update(&mut self, asker: Asker, resources: &serde_json::Value) -> Outcome<Option<Reply>> {
        self.running(&Target::Init)?;
        match &mut self.runtime {
            Runtime::Native(native) => {
                for warning in native.update(resources)? {
                    say!("update: {warning}");
                }
                Ok(Some(Reply::Done))
            }
            Runtime::Oci(oci) => {
                let then = Then::Done(oci.update(resources)?);
                self.jobs.push(Pending { asker, then, late: false });
                Ok(None)
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! One sandbox's sockets. What a container can make us do at a time has a bound: it can ask as fast as it likes, and only
//! keeps itself waiting.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dns::forward::{Via, forward, framed};
use crate::dns::message::{self, Ask, Outcome};
use crate::dns::names::{Asker, Servers};

/// A container's questions that wait for others' answers at most.
const WAITING: usize = 64;
/// A container's connections at most.
const CONNECTIONS: usize = 16;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Questions over UDP are never longer.
const LONGEST: usize = 4096;
/// After a socket failed (no memory, no descriptors) it is left alone for so long.
const REST: Duration = Duration::from_millis(100);

/// Serves until it is aborted; what it has begun ends with it.
pub(crate) async fn serve(
    asker: Asker,
    forwards: Arc<Semaphore>,
    netns: Option<Arc<OwnedFd>>,
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
) {
    let (udp, tcp) = match UdpSocket::from_std(udp).and_then(|u| Ok((u, TcpListener::from_std(tcp)?))) {
        Ok(sockets) => sockets,
        Err(error) => return tracing::error!(%error, "serving a container's resolver"),
    };
    let serving = Serving { asker, forwards, netns };
    tokio::join!(serving.serve_udp(Arc::new(udp)), serving.serve_tcp(&tcp));
}

#[derive(Clone)]
struct Serving {
    asker: Asker,
    forwards: Arc<Semaphore>,
    /// The container's, from within which servers of its own choice are asked.
    netns: Option<Arc<OwnedFd>>,
}

impl Serving {
    async fn serve_udp(&self, socket: Arc<UdpSocket>) {
        let mut waiting: JoinSet<()> = JoinSet::new();
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, from) = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    Err(error) => {
                        tracing::debug!(%error, "reading a container's questions");
                        sleep(REST).await;
                        continue;
                    }
                },
                Some(_) = waiting.join_next() => continue,
            };
            match message::consider(&self.asker, &buffer[..length], false) {
                Outcome::Ignore => {}
                Outcome::Answer(answer) => send(&socket, &answer, from).await,
                // It asks again when it has waited long enough; a hurried refusal would only make it ask more.
                Outcome::Forward(_) if waiting.len() >= WAITING => {}
                Outcome::Forward(ask) => {
                    let (serving, socket) = (self.clone(), Arc::clone(&socket));
                    waiting.spawn(async move {
                        let answer = serving.forward(&ask, false).await;
                        send(&socket, &answer, from).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(&self, listener: &TcpListener) {
        let mut connections: JoinSet<()> = JoinSet::new();
        loop {
            if connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let serving = self.clone();
                        connections.spawn(async move {
                            if let Err(error) = serving.converse(stream).await {
                                tracing::debug!(%error, "a container's connection to its resolver");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "taking a container's connection");
                        sleep(REST).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = async {
                let length = stream.read_u16().await?;
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.map(|_| question)
            };
            let question = match timeout(IDLE, question).await {
                Ok(Ok(question)) => question,
                Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => return Ok(()),
            };
            let answer = match message::consider(&self.asker, &question, true) {
                Outcome::Ignore => return Ok(()),
                Outcome::Answer(answer) => answer,
                Outcome::Forward(ask) => self.forward(&ask, true).await,
            };
            timeout(IDLE, stream.write_all(&framed(&answer)?)).await??;
        }
    }

    async fn forward(&self, ask: &Ask, tcp: bool) -> Vec<u8> {
        let Some(servers) = self.asker.servers() else { return message::failure(&ask.query, ask.end) };
        // Held while it waits for the answer; one that is not to be had means that the host's servers do not keep up.
        match self.forwards.try_acquire() {
            Ok(_permit) => {
                let via = match servers {
                    Servers::Hosts => Via::Host,
                    Servers::Asked(servers) => Via::Container(servers, self.netns.clone()),
                };
                forward(ask, via, tcp).await
            }
            Err(_) => message::failure(&ask.query, ask.end),
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, "answering a container's question");
    }
}

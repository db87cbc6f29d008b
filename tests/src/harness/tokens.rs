// SPDX-License-Identifier: Apache-2.0
//! A token server (Docker's token authentication specification) that a test tells what to issue. The registry checks
//! what it signs: signature, audience, expiry.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::authority::Identity;
use super::netns::NetNs;

/// How the tokens are that it issues.
#[derive(Clone, Debug)]
pub struct Issue {
    /// For whom they are.
    pub audience: String,
    /// Seconds until they expire; negative for such as have.
    pub life: i64,
    /// How long the answer says that they live.
    pub said: u64,
}

/// One request for a token.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET` or `POST`.
    pub method: String,
    /// Query of a `GET`, form of a `POST`, as sent.
    pub fields: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// A token server on the bed's loopback, to the end of the test's process.
pub struct TokenServer {
    issue: Mutex<Issue>,
    asked: Mutex<Vec<Asked>>,
    issued: Mutex<Vec<String>>,
    signer: Identity,
    dir: PathBuf,
    /// Where it is asked: the realm that the registry names.
    pub realm: String,
}

/// Who may have tokens: `u` with `secret`.
const BASIC: &str = "Basic dTpzZWNyZXQ=";
/// The identity token that it gives, and takes in exchange for others.
pub const IDENTITY: &str = "the+identity/of=u";

impl TokenServer {
    /// Starts one; `signer` is known to the registry.
    #[must_use]
    pub fn open(netns: &NetNs, dir: &Path, signer: Identity, issue: Issue) -> Arc<Self> {
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:0").expect("a port for tokens"));
        let port = listener.local_addr().expect("its port").port();
        let server = Arc::new(Self {
            realm: format!("http://127.0.0.1:{port}/token"),
            issue: Mutex::new(issue),
            asked: Mutex::default(),
            issued: Mutex::default(),
            signer,
            dir: dir.to_owned(),
        });
        let opened = Arc::clone(&server);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                // One after the other; whoever hangs up misses his answer.
                drop(client.and_then(|client| server.answer(client)));
            }
        });
        opened
    }

    /// What it issues from now on.
    pub fn issues(&self, issue: Issue) {
        *self.issue.lock().expect("the issue") = issue;
    }

    /// What it was asked since it was last looked at.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("what was asked"))
    }

    /// The last token that it issued.
    #[must_use]
    pub fn last(&self) -> Option<String> {
        self.issued.lock().expect("what was issued").last().cloned()
    }

    fn answer(&self, mut client: TcpStream) -> std::io::Result<()> {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        let body_from = loop {
            if let Some(at) = request.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let n = client.read(&mut buffer)?;
            // A client may try TLS first.
            if n == 0 || request.first().or(buffer.first()) == Some(&0x16) {
                return Ok(());
            }
            request.extend_from_slice(&buffer[..n]);
        };
        let head = String::from_utf8_lossy(&request[..body_from]).into_owned();
        let header = |name: &str| {
            let line = head.lines().find(|l| l.to_lowercase().starts_with(&format!("{name}:")))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let length: usize = header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        while request.len() < body_from + length {
            let n = client.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            request.extend_from_slice(&buffer[..n]);
        }
        let mut line = head.lines().next().unwrap_or_default().split(' ');
        let method = line.next().unwrap_or_default().to_owned();
        let query = line.next().and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
        let fields = match method.as_str() {
            "POST" => String::from_utf8_lossy(&request[body_from..]).into_owned(),
            _ => query.to_owned(),
        };
        let asked = Asked { method, fields, authorization: header("authorization") };
        let (status, body) = self.grant(&asked);
        self.asked.lock().expect("what was asked").push(asked);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes())?;
        client.write_all(body.as_bytes())
    }

    fn grant(&self, asked: &Asked) -> (&'static str, String) {
        let pairs: Vec<(String, String)> = asked
            .fields
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), decoded(v)))
            .collect();
        let all =
            |name: &str| pairs.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        let by_exchange = asked.method == "POST" && all("refresh_token") == [IDENTITY];
        // The docker CLI asks whether an identity token can be had for a password.
        let by_form = asked.method == "POST" && all("password") == ["secret"];
        if !by_exchange && !by_form && asked.authorization.as_deref() != Some(BASIC) {
            return ("401 Unauthorized", json!({"details": "incorrect username or password"}).to_string());
        }
        let issue = self.issue.lock().expect("the issue").clone();
        let token = self.sign(&issue, &all("scope"));
        self.issued.lock().expect("what was issued").push(token.clone());
        let mut answer = json!({"token": token, "access_token": token, "expires_in": issue.said});
        if all("offline_token") == ["true"] || all("access_type") == ["offline"] || by_exchange {
            answer["refresh_token"] = json!(IDENTITY);
        }
        ("200 OK", answer.to_string())
    }

    /// A JSON web token for everything that is asked for.
    fn sign(&self, issue: &Issue, scopes: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let now = i64::try_from(now).expect("a time");
        let access: Vec<_> = scopes
            .iter()
            .flat_map(|scope| scope.split(' '))
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
            })
            .collect();
        let pem = std::fs::read_to_string(&self.signer.certificate).expect("the signer's certificate");
        let der: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [der]});
        let claims = json!({"iss": "tests", "sub": "u", "aud": issue.audience, "iat": now - 3600, "nbf": now - 3600,
            "exp": now + issue.life, "jti": format!("{now}"), "access": access});
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let mut openssl = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&self.signer.key)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl");
        openssl.stdin.take().expect("its input").write_all(signed.as_bytes()).expect("what is signed");
        let signature = openssl.wait_with_output().expect("its end").stdout;
        format!("{signed}.{}", base64url(&raw(&signature)))
    }
}

/// The two numbers of an ECDSA signature in 32 bytes each (RFC 7518, 3.4), out of DER.
fn raw(der: &[u8]) -> Vec<u8> {
    let (mut rest, mut numbers) = (&der[2..], Vec::new());
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.iter().take_while(|b| **b == 0).count()..];
        numbers.extend(std::iter::repeat_n(0, 32 - number.len()));
        numbers.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    numbers
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0u32, |bits, (n, b)| bits | u32::from(*b) << (16 - 8 * n));
        for n in 0..=three.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    text
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let hex = std::str::from_utf8(&hex).expect("two digits");
                bytes.push(u8::from_str_radix(hex, 16).expect("a byte"));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).expect("a text")
}

// SPDX-License-Identifier: Apache-2.0
//! The files that every container gets in `/etc`: hostname, hosts, resolv.conf.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What `/etc/hosts` says.
#[derive(Debug, Default)]
pub(crate) struct Hosts<'a> {
    /// The container's addresses.
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) hostname: &'a str,
    pub(crate) domainname: &'a str,
    /// `--add-host`, resolved: name and address.
    pub(crate) extra: &'a [(String, IpAddr)],
}

const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

impl Hosts<'_> {
    /// The file of a container with a network of its own.
    pub(crate) fn render(&self) -> String {
        let mut text = LOCAL.to_owned();
        text.push_str(&self.render_extra());
        for address in self.addresses {
            let name = if self.domainname.is_empty() {
                self.hostname.to_owned()
            } else {
                format!("{host}.{domain} {host}", host = self.hostname, domain = self.domainname)
            };
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "{address}\t{name}");
        }
        text
    }

    /// The lines of `--add-host` alone, to go behind the host's own file.
    pub(crate) fn render_extra(&self) -> String {
        self.extra.iter().fold(String::new(), |mut text, (name, address)| {
            let _ok = writeln!(text, "{address}\t{name}");
            text
        })
    }
}

/// Splits `--add-host`'s `name:address` or `name=address`.
pub(crate) fn split_extra_host(entry: &str) -> Option<(&str, &str)> {
    let (name, address) = entry.split_once('=').or_else(|| entry.split_once(':'))?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((name, address))
}

/// What `/etc/resolv.conf` is to say: empty lists leave the host's.
#[derive(Debug, Default)]
pub(crate) struct Resolver<'a> {
    pub(crate) servers: &'a [String],
    pub(crate) search: &'a [String],
    pub(crate) options: &'a [String],
}

/// Name servers for hosts that have none a container could reach.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

impl Resolver<'_> {
    /// Makes the file from the host's. Name servers on the host's loopback are left out: a container cannot
    /// reach them.
    pub(crate) fn render(&self, host: &str) -> String {
        let host = Parsed::read(host);
        let mut servers: Vec<&str> = self.servers.iter().map(String::as_str).collect();
        if servers.is_empty() {
            servers = host.servers.into_iter().filter(|server| !is_loopback(server)).collect();
        }
        if servers.is_empty() {
            servers = FALLBACK.to_vec();
        }
        let choose = |own: &[String], host: Vec<&str>| -> Vec<String> {
            if own.is_empty() { host.into_iter().map(str::to_owned).collect() } else { own.to_vec() }
        };
        let mut search = choose(self.search, host.search);
        // `--dns-search .` asks for no search list.
        search.retain(|domain| domain != ".");
        let options = choose(self.options, host.options);
        let mut text = String::from("# Made by berthd for this container.\n");
        for server in servers {
            let _ok = writeln!(text, "nameserver {server}");
        }
        for (keyword, words) in [("search", &search), ("options", &options)] {
            if !words.is_empty() {
                let _ok = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        text
    }
}

/// Whether a resolv.conf names nothing but systemd's stub, which has the real servers in another file.
pub(crate) fn is_stub(text: &str) -> bool {
    let servers = Parsed::read(text).servers;
    !servers.is_empty() && servers.iter().all(|server| *server == "127.0.0.53")
}

/// The resolver options in a resolv.conf.
pub(crate) fn host_options(text: &str) -> Vec<String> {
    Parsed::read(text).options.into_iter().map(str::to_owned).collect()
}

fn is_loopback(server: &str) -> bool {
    // A scope (`fe80::1%eth0`) names an interface of the host's.
    let bare = server.split_once('%').map_or(server, |(address, _)| address);
    bare.parse::<IpAddr>().map_or(true, |address| address.is_loopback() || bare.len() != server.len())
}

#[derive(Default)]
struct Parsed<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> Parsed<'a> {
    fn read(text: &'a str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.servers.extend(words.next()),
                // The last one counts.
                Some("search" | "domain") => parsed.search = words.collect(),
                Some("options") => parsed.options.extend(words),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    /// The lines after the comment.
    fn check(resolver: &Resolver<'_>, host: &str, wanted: &str) {
        let text = resolver.render(host);
        assert_eq!(text.split_once('\n').unwrap().1, wanted);
    }

    #[test]
    fn loopback_servers_of_the_host_are_left_out() {
        let none = Resolver::default();
        check(
            &none,
            "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.1 # x\nnameserver ::1\nnameserver fe80::1%eth0\nsearch a b\noptions edns0\n",
            "nameserver 10.0.0.1\nsearch a b\noptions edns0\n",
        );
        check(&none, "nameserver 127.0.0.1\n", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check(&none, "", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn what_is_asked_replaces_the_hosts() {
        let (servers, dot, options) = (strings(&["1.1.1.1"]), strings(&["."]), strings(&["ndots:2"]));
        let host = "nameserver 10.0.0.1\nsearch a\noptions edns0\n";
        check(
            &Resolver { servers: &servers, search: &dot, options: &options },
            host,
            "nameserver 1.1.1.1\noptions ndots:2\n",
        );
        let search = strings(&["x", "y"]);
        check(
            &Resolver { search: &search, ..Resolver::default() },
            host,
            "nameserver 10.0.0.1\nsearch x y\noptions edns0\n",
        );
    }

    #[test]
    fn the_stub_is_known() {
        assert!(is_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_stub("nameserver 127.0.0.53\nnameserver 1.1.1.1\n"));
        assert!(!is_stub(""));
    }

    #[test]
    fn hosts() {
        let extra = [("foo".to_owned(), "1.2.3.4".parse().unwrap())];
        let addresses = ["172.17.0.2".parse().unwrap()];
        let hosts = Hosts { addresses: &addresses, hostname: "h", domainname: "", extra: &extra };
        assert_eq!(hosts.render().lines().skip(6).collect::<Vec<_>>(), ["1.2.3.4\tfoo", "172.17.0.2\th"]);
        let hosts = Hosts { addresses: &addresses, hostname: "h", domainname: "d.e", extra: &[] };
        assert_eq!(hosts.render().lines().last().unwrap(), "172.17.0.2\th.d.e h");
    }

    #[test]
    fn extra_hosts_are_split() {
        assert_eq!(split_extra_host("a:1.2.3.4"), Some(("a", "1.2.3.4")));
        assert_eq!(split_extra_host("a=[::1]"), Some(("a", "::1")));
        assert_eq!(split_extra_host("a:::1"), Some(("a", "::1")));
        assert_eq!(split_extra_host("a"), None);
        assert_eq!(split_extra_host(":1.2.3.4"), None);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Archives and images that mean harm: those that lead out of where they are unpacked, and those that never end.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use berth_tests::harness::{Bed, Cli};

/// A header with any name, which the tar crate would refuse to write.
fn header(name: &[u8], kind: u8, link: &[u8], mode: u32, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut all = header(name, b'0', b"", 0o644, content.len() as u64);
    all.extend_from_slice(content);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = entries.concat();
    all.resize(all.len() + 1024, 0);
    all
}

fn put(bed: &Bed, name: &str, path: &str, body: &[u8]) -> u16 {
    let to = format!("/containers/{name}/archive?path={path}");
    bed.api_with("PUT", &to, &[("Content-Type", "application/x-tar")], body).status
}

fn up(bed: &Bed, name: &str) {
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).ok();
}

#[test]
fn names_and_links_of_an_archive_stay_beneath_its_directory() {
    let bed = Bed::start();
    up(&bed, "in");
    let host = bed.path().join("canary");
    fs::create_dir(&host).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(host.join("victim"), "untouched").unwrap();
    let before = fs::metadata(host.join("victim")).unwrap();
    let path = host.to_str().unwrap().as_bytes().to_vec();
    let victim = [&path[..], b"/victim"].concat();
    let exec = |script: &str| bed.docker(&["exec", "in", "sh", "-c", script]).ok();
    exec("mkdir -p /w/dest /w/dest-evil");

    // Names that lead out are an error, and write nothing.
    for name in [&b"../victim"[..], b"a/../../victim", b"..", b"../dest-evil/x"] {
        let status = put(&bed, "in", "/w/dest", &archive(&[file(name, b"evil")]));
        assert!(status == 400 || (!bed.is_ours() && [200, 500].contains(&status)), "{name:?}: {status}");
    }
    // An absolute name is one beneath the directory.
    assert_eq!(put(&bed, "in", "/w/dest", &archive(&[file(b"/abs", b"x")])), 200);
    assert_eq!(exec("ls /w /w/dest-evil; cat /w/dest/abs"), "/w:\ndest\ndest-evil\n\n/w/dest-evil:\nx");

    // A link out, then a directory, a file or a hard link through it: all stay in the container, whatever comes of them.
    for entries in [
        vec![header(b"d", b'2', &path, 0o777, 0), header(b"d", b'5', b"", 0o777, 0)],
        vec![header(b"e", b'2', &path, 0o777, 0), file(b"e/victim", b"evil")],
        vec![header(b"f", b'2', &victim, 0o777, 0), file(b"f", b"evil")],
        vec![header(b"g", b'2', &victim, 0o777, 0), header(b"h", b'1', b"g", 0o777, 0), file(b"h", b"evil")],
        vec![header(b"i", b'1', b"../../etc/passwd", 0o777, 0)],
        vec![header(b"j", b'1', &victim, 0o777, 0), file(b"j", b"evil")],
        vec![header(b"k", b'2', b"../../../../../..", 0o777, 0), file(b"k/w/dest-evil/x", b"evil")],
    ] {
        let status = put(&bed, "in", "/w/dest", &archive(&entries));
        assert!([200, 400, 404, 500].contains(&status), "{status}");
        assert_eq!(fs::metadata(&host).unwrap().mode() & 0o777, 0o700);
    }
    let after = fs::metadata(host.join("victim")).unwrap();
    assert_eq!((before.ctime_nsec(), before.nlink()), (after.ctime_nsec(), after.nlink()));
    assert_eq!(fs::read_to_string(host.join("victim")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
    bed.docker(&["rm", "-f", "in"]).ok();
    bed.finish();
}

/// The most memory that the daemon ever had, in KiB.
fn most_memory(bed: &Bed) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bed.daemon_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn archives_that_swell_are_bounded() {
    let bed = Bed::start();
    up(&bed, "in");
    if !bed.is_ours() {
        // What the reference does with them is not for us to find out on this machine.
        bed.docker(&["rm", "-f", "in"]).ok();
        return bed.finish();
    }
    let zeros = |megabytes: usize| {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        member.write_all(&vec![0; 1 << 20]).unwrap();
        member.finish().unwrap().repeat(megabytes)
    };
    let packed = |plain: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(plain).unwrap();
        out.finish().unwrap()
    };
    // Zeros are the end of an archive; what follows is not waited for.
    assert_eq!(put(&bed, "in", "/tmp", &zeros(2000)), 200);
    // A file of zeros, which is a hole.
    let swollen = [packed(&header(b"hole", b'0', b"", 0o644, 1 << 30)), zeros(1024)].concat();
    assert_eq!(put(&bed, "in", "/tmp", &swollen), 200);
    assert_eq!(bed.docker(&["exec", "in", "stat", "-c", "%s", "/tmp/hole"]).ok(), (1_u64 << 30).to_string());
    let taken: u64 = bed.docker(&["exec", "in", "stat", "-c", "%b", "/tmp/hole"]).ok().parse().unwrap();
    assert!(taken < 2048, "{taken} blocks");
    // A sparse file of 8 EiB, by the headers of GNU tar.
    let size = (i64::MAX as u64).to_string();
    let mut pax = Vec::new();
    for (key, value) in [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "vast"),
        ("GNU.sparse.realsize", &size),
    ] {
        let rest = format!(" {key}={value}\n");
        let length = rest.len() + 2;
        pax.extend_from_slice(format!("{length}{rest}").as_bytes());
    }
    let mut vast = header(b"./PaxHeaders/vast", b'x', b"", 0o644, pax.len() as u64);
    vast.extend_from_slice(&pax);
    vast.resize(vast.len().next_multiple_of(512), 0);
    let map = format!("1\n{}\n0\n", i64::MAX);
    let sparse =
        archive(&[vast, file(b"GNUSparseFile.0/vast", &[map.as_bytes(), &[0; 512][map.len()..]].concat())]);
    assert!([400, 500].contains(&put(&bed, "in", "/tmp", &sparse)));
    // A window of 2 GiB; cut short; junk.
    assert_eq!(
        put(&bed, "in", "/tmp", &[0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00]),
        400
    );
    assert_eq!(put(&bed, "in", "/tmp", b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F"), 400);
    assert_eq!(put(&bed, "in", "/tmp", &vec![b'j'; 1 << 20]), 400);
    // A path that is deeper than anything that walks it; the container can still be looked at and removed.
    let deep = format!("{}f", "d/".repeat(1500));
    let mut name = Vec::from(format!("{deep}\0"));
    let mut long = header(b"././@LongLink", b'L', b"", 0o644, name.len() as u64);
    name.resize(name.len().next_multiple_of(512), 0);
    long.extend_from_slice(&name);
    assert!([200, 400, 500].contains(&put(&bed, "in", "/tmp", &archive(&[long, file(b"short", b"x")]))));
    assert!([200, 500].contains(&bed.api("GET", "/containers/in/changes", "").status));
    assert!(most_memory(&bed) < 400 << 10, "{} KiB", most_memory(&bed));
    bed.docker(&["rm", "-f", "in"]).ok();
    bed.finish();
}

#[test]
fn working_directories_and_mtab_through_links_stay_in_the_container() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let host = bed.path().join("canary");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "untouched").unwrap();
    let path = host.to_str().unwrap();
    let script = format!("ln -s {path} /link; rm -f /etc/mtab; ln -s /../../..{path}/file /etc/mtab");
    bed.docker(&["run", "--name", "made", "busybox", "sh", "-c", &script]).ok();
    bed.docker(&["commit", "-c", "WORKDIR /link/deep/er", "made", "evil:dir"]).ok();
    bed.docker(&["rm", "made"]).ok();
    let first = bed.docker(&["run", "--rm", "evil:dir", "sh", "-c", "pwd; touch here"]);
    if first.code == 0 {
        assert!(first.stdout.starts_with(path) || first.stdout.starts_with("/link"), "{first:?}");
    }
    let second = bed.docker(&["run", "--rm", "-w", "/link/other", "evil:dir", "touch", "here"]);
    assert!([0, 125, 126, 127, 128].contains(&second.code), "{second:?}");
    let names: Vec<_> = fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"], "the host was written to");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "untouched");
    bed.docker(&["rmi", "-f", "evil:dir"]).ok();
    bed.finish();
}

/// CVE-2019-14271: whoever looks up users with the C library in a container's root, or changes into it before it has loaded all
/// that it needs, runs what the container put there.
#[test]
fn nothing_of_a_container_is_loaded_or_run_by_whoever_copies() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let dir = bed.path().join("evil");
    fs::create_dir(&dir).unwrap();
    let marker = bed.path().join("marker");
    let source = format!(
        "#include <stdio.h>\n__attribute__((constructor)) static void ran(void) {{ FILE *f = fopen(\"/marker\", \"w\"); if (f) fclose(f);
         f = fopen(\"{}\", \"w\"); if (f) fclose(f); }}",
        marker.display()
    );
    fs::write(dir.join("evil.c"), source).unwrap();
    let library = dir.join("libnss_evil.so.2");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(dir.join("evil.c"))
        .status()
        .unwrap();
    assert!(compiled.success());
    // The library does what it is for, or this test shows nothing.
    assert!(std::process::Command::new("true").env("LD_PRELOAD", &library).status().unwrap().success());
    fs::remove_file(&marker).expect("the library leaves its mark where it is loaded");
    drop(fs::remove_file("/marker"));
    bed.docker(&["run", "-d", "--name", "cc", "-u", "app:app", "busybox", "sleep", "1000"]).ok();
    let root = |script: &str| bed.docker(&["exec", "-u", "0", "cc", "sh", "-c", script]).ok();
    root("mkdir -p /lib/x86_64-linux-gnu /lib64 /usr/lib/x86_64-linux-gnu /etc");
    let content = fs::read(&library).unwrap();
    let places = ["lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let libraries = [
        "libnss_evil.so.2",
        "libnss_files.so.2",
        "libnss_dns.so.2",
        "libnss_systemd.so.2",
        "libselinux.so.1",
    ];
    let mut entries = Vec::new();
    for place in places {
        for name in libraries {
            entries.push(file(format!("{place}/{name}").as_bytes(), &content));
        }
    }
    entries.push(file(b"etc/nsswitch.conf", b"passwd: evil files\ngroup: evil files\nhosts: evil dns\n"));
    entries.push(file(b"etc/ld.so.preload", b"/lib/libnss_evil.so.2\n"));
    assert_eq!(put(&bed, "cc", "/", &archive(&entries)), 200);

    let here = dir.join("file");
    fs::write(&here, "x").unwrap();
    for state in ["running", "exited"] {
        assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok(), state);
        bed.docker(&["cp", "-a", here.to_str().unwrap(), "cc:/tmp/file"]).ok();
        bed.docker(&["cp", "cc:/tmp/file", dir.join("back").to_str().unwrap()]).ok();
        let packed = "/containers/cc/archive?path=/tmp&copyUIDGID=1";
        for magic in [&b"\xfd7zXZ\0"[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9"] {
            assert!(bed.api_with("PUT", packed, &[], magic).status >= 400);
        }
        assert!([200, 500].contains(&bed.api("GET", "/containers/cc/changes", "").status));
        assert_eq!(bed.api("GET", "/containers/cc/export", "").status, 200);
        bed.docker(&["commit", "cc", &format!("evil:{state}")]).ok();
        if bed.is_ours() {
            let maps = fs::read_to_string(format!("/proc/{}/maps", bed.daemon_pid())).unwrap();
            assert!(!maps.contains("libnss_evil") && !maps.contains("libselinux"), "{maps}");
        }
        if state == "running" {
            root("[ ! -e /marker ]");
            bed.docker(&["kill", "cc"]).ok();
            bed.docker(&["wait", "cc"]).ok();
        }
    }
    assert_eq!(bed.api("HEAD", "/containers/cc/archive?path=/marker", "").status, 404);
    assert!(!marker.exists() && !Path::new("/marker").exists(), "a library of the container was loaded");
    bed.docker(&["rm", "-f", "cc"]).ok();
    bed.docker(&["rmi", "-f", "evil:running", "evil:exited"]).ok();
    bed.finish();
}

/// So many times the same entries, packed: members of gzip may follow one another.
fn swarm(entries: &[Vec<u8>], times: usize) -> Vec<u8> {
    const AT_ONCE: usize = 1000;
    let member = |plain: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(plain).unwrap();
        out.finish().unwrap()
    };
    let mut packed = member(&entries.concat().repeat(AT_ONCE)).repeat(times.div_ceil(AT_ONCE));
    packed.extend(member(&[0; 1024]));
    packed
}

/// Archives with so many entries: a container takes them as they come, an image has a bound.
fn many_entries(count: usize) {
    let bed = Bed::start();
    up(&bed, "in");
    if !bed.is_ours() {
        bed.docker(&["rm", "-f", "in"]).ok();
        return bed.finish();
    }
    // Directories, which are remembered to the end; links; files.
    let entries = [
        header(b"d/e", b'5', b"", 0o755, 0),
        header(b"d/e/l", b'2', b"target", 0o777, 0),
        file(b"d/e/f", b""),
        header(b"d/e/h", b'1', b"d/e/f", 0o644, 0),
    ];
    let packed = swarm(&entries, count / entries.len());
    let archive = bed.path().join("many.tar.gz");
    fs::write(&archive, &packed).unwrap();
    // By the command line, which waits as long as it takes.
    let mut copy = bed.command(Cli::Docker, &["cp", "-", "in:/tmp"]);
    assert!(copy.stdin(fs::File::open(&archive).unwrap()).status().unwrap().success());
    assert_eq!(bed.docker(&["exec", "in", "ls", "/tmp/d/e"]).ok(), "f\nh\nl");
    assert!(most_memory(&bed) < 300 << 10, "{} KiB", most_memory(&bed));
    // As an image; the bound of one is ten million entries.
    let import = bed.docker(&["import", archive.to_str().unwrap(), "many:one"]);
    if count >= 10_000_000 {
        assert!(import.fails(1).contains("more than 10000000 entries"));
    } else {
        import.ok();
        bed.docker(&["rmi", "many:one"]).ok();
    }
    assert!(most_memory(&bed) < 400 << 10, "{} KiB", most_memory(&bed));
    // Whoever hangs up is not worked for: the container, which is being written to, can be removed at once.
    let endless = swarm(&entries, 100 * count / entries.len());
    let mut connection = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
    let head = format!(
        "PUT /containers/in/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        endless.len() * 2
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&endless[..endless.len().min(64 << 10)]).unwrap();
    drop(connection);
    bed.docker(&["rm", "-f", "in"]).ok();
    bed.finish();
}

#[test]
fn archives_of_many_entries_take_no_memory() {
    many_entries(40_000);
}

#[test]
#[ignore = "long form: make soak"]
fn archives_of_ten_million_entries_take_no_memory() {
    many_entries(10_001_000 / 4 * 4);
}

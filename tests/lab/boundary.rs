//! The walls between the parts, tried from outside on a machine with a real systemd: what a courier that was taken over can reach (S1 to S4),
//! who reads a secret, and that the agent opens no network socket in a whole life.

use std::net::SocketAddrV4;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use trimtab::courier::{Client, Polled};
use trimtab_tests::lab::trimtab::{converge, enrol};
use trimtab_tests::lab::{self, Machine, Person, eventually};
use trimtab_tests::trace::possess::{Possessed, seen_from_here};

use crate::fleet;

const PATIENCE: Duration = Duration::from_secs(30);
const SECRET: &str = "s3cret-for-the-courier";

fn enrolled(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(m, &ana, "");
    ana
}

/// Git over HTTPS, only for who shows the token; ana does.
fn guard_the_host(m: &Machine, ana: &Person<'_>) {
    m.sh(&format!(
        "sed -i 's|location / {{|location / {{ if ($http_authorization != \"Bearer {SECRET}\") {{ return 401; }}|' /etc/nginx/nginx.conf && \
         nginx -t -q && systemctl reload nginx"
    ));
    ana.git(&format!("config http.extraHeader 'Authorization: Bearer {SECRET}'"));
}

/// A file that only root can read, and a drop-in that hands it to the courier: as the manual says it.
fn hand_over(m: &Machine) {
    m.sh(&format!("install -d -m 0700 /etc/trimtab/secrets && (umask 077; echo {SECRET} > /etc/trimtab/secrets/git-token)"));
    m.write(
        "/etc/systemd/system/trimtab-courier@.service.d/credentials.conf",
        "[Service]\nLoadCredential=git-token:/etc/trimtab/secrets/git-token\n",
    );
    m.sh("systemctl daemon-reload && sed -i '/^url/a token-file = \"git-token\"' /etc/trimtab/agent.toml");
}

/// The courier that systemd started for this connection, as this host numbers it.
fn process(m: &Machine) -> u32 {
    let unit = m.sh("systemctl list-units --plain --no-legend 'trimtab-courier@*' | cut -d ' ' -f 1");
    assert_eq!(unit.lines().count(), 1, "one courier for one connection: {unit:?}");
    let inside = m.sh(&format!("systemctl show -p MainPID --value '{unit}'"));
    seen_from_here(m.leader(), inside.parse().expect("because it runs"))
}

#[test]
fn s1_to_s4_a_courier_made_to_try_is_refused_everything_that_is_not_its_own() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = enrolled(&m);
    guard_the_host(&m, &ana);
    let refused = m.try_sh("trimtab once");
    assert!(refused.code == 1 && refused.out.contains("401"), "{refused}");
    hand_over(&m);
    converge(&m);
    let walls = m.sh("trimtab status --json | jq -r '.courier.landlock + .courier.detail'");
    assert_eq!(walls, "whole", "and the operator is told so; by its own unit's filter it may ask for it");

    // The installed unit starts it, as for the agent; it has polled the source, and waits for the next question.
    let socket = m.outside("/run/trimtab-courier/courier.sock");
    let mut client = Client::connect(&socket, PATIENCE).expect("because root may ask");
    let Polled { id, .. } = client.poll("refs/heads/main").expect("because the token is right");
    assert!(id.is_some());
    let pid = process(&m);
    {
        let courier = Possessed::new(pid);
        files(&m, &courier);
        network(&m, &courier);
        privileges(&courier);
    }
    assert!(client.poll("refs/heads/main").is_ok(), "it goes on as if nothing had been");
}

/// The same for one that fetches through ssh, which runs a program and reads what that reads.
pub(crate) fn one_with_ssh(m: &Machine) {
    m.sh("systemctl start trimtab-courier.socket");
    let mut client = Client::connect(&m.outside("/run/trimtab-courier/courier.sock"), PATIENCE).expect("because root may ask");
    client.poll("refs/heads/main").expect("because it just worked");
    {
        let courier = Possessed::new(process(m));
        let at = |port: u16| SocketAddrV4::new([127, 0, 0, 1].into(), port);
        for path in ["/etc/trimtab/agent.toml", "/etc/shells", "/etc/shadow", "/srv/git/fleet.git/HEAD"] {
            assert_eq!(courier.open(path, libc::O_RDONLY), Err(Errno::EACCES), "S1: it reads {path}");
        }
        assert_eq!(courier.open("/etc/trimtab/courier-key", libc::O_RDONLY), Ok(()), "ssh must read it");
        assert_eq!(courier.open("/var/tmp/x", libc::O_WRONLY | libc::O_CREAT), Err(Errno::EACCES), "S2");
        assert_eq!((courier.connect(at(443)), courier.connect(at(22))), (Err(Errno::EACCES), Ok(())), "S3");
    }
    assert!(client.poll("refs/heads/main").is_ok());
}

fn files(m: &Machine, courier: &Possessed) {
    let (read, write) = (libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT);
    // The first three may not be read by this user, the others not by this process: Landlock.
    let as_its_user = |path: &str| m.try_sh(&format!("setpriv --reuid trimtab-courier --clear-groups cat {path}")).code == 0;
    for (path, everybody) in [
        ("/etc/shadow", false),
        ("/etc/trimtab/secrets/git-token", false),
        ("/etc/ssl/private/lab-server.key", false),
        ("/etc/passwd", true),
        ("/etc/trimtab/agent.toml", true),
        ("/etc/trimtab/trust.toml", true),
        ("/run/trimtab/status.json", false),
    ] {
        assert_eq!(courier.open(path, read), Err(Errno::EACCES), "S1: it reads {path}");
        assert_eq!(as_its_user(path), everybody, "{path}: which wall it is that refuses");
    }
    // Its own credential it has read, and cannot read again.
    let unit = m.sh("systemctl list-units --plain --no-legend 'trimtab-courier@*' | cut -d ' ' -f 1");
    assert_eq!(courier.open(&format!("/run/credentials/{unit}/git-token"), read), Err(Errno::EACCES), "S1: its credential");
    for path in ["/etc/x", "/var/tmp/x", "/tmp/x", "/run/x", "/dev/shm/x", "/var/lib/trimtab/x", "/x"] {
        assert!(matches!(courier.open(path, write), Err(Errno::EACCES | Errno::EROFS)), "S2: it writes {path}");
    }
    assert_eq!(courier.open("/var/cache/trimtab/tmp/mine", write), Ok(()), "its cache is its own");
    assert_eq!(courier.unlink("/var/cache/trimtab/tmp/mine"), Ok(()));
}

fn network(m: &Machine, courier: &Possessed) {
    let at = |port: u16| SocketAddrV4::new([127, 0, 0, 1].into(), port);
    m.sh("systemctl start ssh; ss -ltn | grep -q ':22 ' && ss -ltn | grep -q ':5000 '");
    for port in [22, 5000, 80] {
        assert_eq!(courier.connect(at(port)), Err(Errno::EACCES), "S3: it connects to port {port}");
    }
    assert_eq!(courier.connect(at(443)), Ok(()), "the source's port is open to it");
    assert_eq!(courier.bind(at(0)), Err(Errno::EACCES), "S3: it listens");
    for (family, kind) in
        [(libc::AF_NETLINK, libc::SOCK_RAW), (libc::AF_PACKET, libc::SOCK_RAW), (libc::AF_VSOCK, libc::SOCK_STREAM)]
    {
        assert_eq!(courier.socket(family, kind), Err(Errno::EAFNOSUPPORT), "S3: a socket of family {family}");
    }
    let raw = [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP].map(|number| u64::from(number.cast_unsigned()));
    assert_eq!(courier.call(libc::SYS_socket, [raw[0], raw[1], raw[2], 0, 0, 0]), Err(Errno::EPERM), "S3: raw packets");
}

fn privileges(courier: &Possessed) {
    assert_eq!(courier.exec("/bin/sh"), Err(Errno::EACCES), "S4: it runs a program");
    for (name, number, arguments) in [
        ("mount", libc::SYS_mount, [0; 6]),
        ("ptrace", libc::SYS_ptrace, [u64::from(libc::PTRACE_ATTACH), 1, 0, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 6]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.cast_unsigned().into(), 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("kill", libc::SYS_kill, [1, 9, 0, 0, 0, 0]),
    ] {
        assert_eq!(courier.call(number, arguments), Err(Errno::EPERM), "S4: {name}");
    }
    // Memory that is written and then run.
    let (anonymous, all) = ((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned(), 7);
    let mapped = courier.call(libc::SYS_mmap, [0, 4096, all, anonymous.into(), u64::MAX, 0]);
    // By systemd's filter (EPERM), or by the kernel itself where it can (PR_SET_MDWE).
    assert!(matches!(mapped, Err(Errno::EPERM | Errno::EACCES)), "S4: memory that is written and run: {mapped:?}");
}

/// The agent under strace, with the walls of its unit taken away that would hide what it tries.
const TRACED: &str = "[Service]\n\
    ExecStart=\n\
    ExecStart=/usr/bin/strace -f -qq -s 256 -e trace=openat,open,openat2,socket,connect -o /root/trace /usr/bin/trimtab agent\n\
    NotifyAccess=all\nKillMode=control-group\nRestart=no\n\
    RestrictAddressFamilies=\nSystemCallFilter=\nCapabilityBoundingSet=~\nIPAddressDeny=\n";

#[test]
fn an_agent_opens_no_network_socket_and_no_secret_in_a_whole_life() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = enrolled(&m);
    guard_the_host(&m, &ana);
    hand_over(&m);
    let sink = "\n[reports]\nheartbeat = \"5s\"\n\n[[sink]]\nname = \"fleet\"\ntype = \"git\"\n";
    let toml = m.read("/etc/trimtab/agent.toml");
    let often = "interval = \"1s\"\nretry-interval = \"1s\"\nretry-max = \"2s\"";
    let toml: Vec<_> = toml.lines().map(|line| if line.starts_with("interval") { often } else { line }).collect();
    m.write("/etc/trimtab/agent.toml", format!("{}\n{sink}", toml.join("\n")));
    m.write("/etc/systemd/system/trimtab.service.d/traced.conf", TRACED);

    // Start and converge; drift; a report; an update; a look by a person; a stop.
    m.sh("systemctl daemon-reload && systemctl start trimtab");
    eventually("the first converge", 30, || m.try_sh("systemctl is-active one").code == 0);
    m.sh("echo SETTING=mine > /etc/one.conf");
    eventually("drift is repaired", 30, || m.read("/etc/one.conf") == "SETTING=1");
    fleet::service(&ana, "one", "2");
    ana.push("Two");
    eventually("the update arrives", 30, || m.read("/etc/one.conf") == "SETTING=2");
    let reported = "git ls-remote -q https://localhost/fleet.git 'refs/trimtab/status/*'";
    eventually("a report arrives", 30, || ana.git(&reported["git ".len()..]).contains("refs/trimtab/status/edge-1"));
    m.sh("trimtab status; trimtab drift; systemctl kill -s HUP trimtab; systemctl stop trimtab");

    // Not vacuous: it saw the sockets that the agent does have, and the file that it must read.
    let count = |pattern: &str| m.sh(&format!("grep -cE '{pattern}' /root/trace; true")).parse::<u32>().unwrap_or(0);
    assert!(count("socket\\(AF_UNIX") > 2 && count("courier.sock") > 2 && count("openat.*agent.toml") > 0);
    assert!(count("exited|\\+\\+\\+|openat") > 10);
    assert_eq!(m.sh("grep -E 'socket\\(' /root/trace | grep -v 'socket(AF_UNIX' | head -n 3"), "", "no socket but local ones");
    assert_eq!(m.sh("grep -E 'secrets|git-token|/run/credentials' /root/trace | head -n 3"), "", "the secret is not opened");
    assert_eq!(
        m.sh(&format!("grep -rl {SECRET} /var/lib/trimtab /run/trimtab /var/log/journal /root/trace; true")),
        "",
        "nor kept"
    );

    // And with its walls as they are installed it could not, if it tried.
    let walls = m.sh("rm /etc/systemd/system/trimtab.service.d/traced.conf; systemctl daemon-reload; \
         systemctl show -p RestrictAddressFamilies --value trimtab");
    assert_eq!(walls, "AF_UNIX");
    m.sh("systemctl start trimtab");
    eventually("it runs", 10, || m.try_sh("systemctl is-active trimtab").code == 0);
    let inside = m.sh("systemctl show -p MainPID --value trimtab");
    let agent = Possessed::new(seen_from_here(m.leader(), inside.parse().expect("because it runs")));
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
        assert_eq!(agent.socket(family, libc::SOCK_DGRAM), Err(Errno::EAFNOSUPPORT), "a socket of family {family}");
    }
    assert_eq!(agent.socket(libc::AF_UNIX, libc::SOCK_DGRAM), Ok(()));
}

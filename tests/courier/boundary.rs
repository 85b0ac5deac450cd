//! S1 to S4: what a courier that was taken over could reach. The courier is the real one, in the middle of its life, and is made to try
//! ([`Possessed`]): it runs as root here and without systemd, so that what refuses is Landlock alone.
//!
//! Needs root and a kernel with Landlock of Linux 6.7; left out elsewhere. The unit's own walls are tried in the lab (tests/lab/boundary.rs).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

use nix::errno::Errno;
use nix::libc::{O_CREAT, O_DIRECTORY, O_RDONLY, O_WRONLY};
use trimtab::courier::{Client, Reach, Wall, confine_to};
use trimtab_model::outbound::Signed;
use trimtab_tests::receiver::Receiver;
use trimtab_tests::server::{Auth, GitServer, Tls};
use trimtab_tests::trace::possess::Possessed;
use trimtab_tests::trimtab_binary;

use crate::{Fleet, PATIENCE, files, walk};

const REFUSED: Result<(), Errno> = Err(Errno::EACCES);

/// Whether it can be tried here.
fn possible() -> bool {
    let reach = Reach { ports: Some([1].into()), ..Reach::default() };
    let wall = std::thread::spawn(move || confine_to(&reach)).join().unwrap();
    let possible = nix::unistd::geteuid().is_root() && wall == Wall::Whole;
    if !possible {
        println!("left out: it needs root, and Landlock as Linux 6.12 has it (here: {wall:?})");
    }
    possible
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port())
}

/// Secrets of a source and of a sink, both in one configuration.
struct Scene {
    fleet: Fleet,
    server: GitServer,
    receiver: Receiver,
    other: TcpListener,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::new();
        fleet.commit(&[("file", "content")]);
        for (name, secret) in [("source-token", "for-the-source"), ("sink-token", "for-the-sink")] {
            fs::write(fleet.root().join(name), secret).unwrap();
        }
        let server = GitServer::start(fleet.root(), Tls::Off);
        server.set_auth(Auth::Header("Bearer for-the-source".into()));
        Self { server, receiver: Receiver::start(Tls::Off), other: TcpListener::bind("127.0.0.1:0").unwrap(), fleet }
    }

    fn client(&self) -> Client {
        let (root, source, sink) = (self.path(""), self.server.url(), self.receiver.url());
        let text = format!(
            "[source]\nurl = '{source}/fleet/.git'\nallow-http = true\ntoken-file = '{root}source-token'\n\
             [[sink]]\nname = 'ops'\ntype = 'webhook'\nurl = '{sink}/hook'\nallow-http = true\ntoken-file = '{root}sink-token'\n"
        );
        let config = self.fleet.root().join("agent.toml");
        fs::write(&config, text).unwrap();
        Client::spawn(&trimtab_binary(), &config, &self.fleet.root().join("cache"), PATIENCE).unwrap()
    }

    fn receiver_address(&self) -> SocketAddr {
        self.receiver.url().rsplit('/').next().unwrap().parse().unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.fleet.root().join(name).display().to_string()
    }

    /// What no courier may do, whatever it is for.
    fn nothing_else(&self, courier: &Possessed) {
        for (row, path) in [
            ("S1", "/etc/shadow".to_owned()),
            ("S1", "/etc/passwd".to_owned()),
            ("S1", self.path("agent.toml")),
            ("S1", self.path("source-token")),
            ("S1", self.path("sink-token")),
        ] {
            assert_eq!(courier.open(&path, O_RDONLY), REFUSED, "{row}: it reads {path}");
        }
        assert_eq!(courier.open("/etc", O_RDONLY | O_DIRECTORY), REFUSED, "S1: it lists /etc");
        for path in ["/tmp/taken-over".to_owned(), "/etc/taken-over".to_owned(), self.path("taken-over")] {
            assert_eq!(courier.open(&path, O_WRONLY | O_CREAT), REFUSED, "S2: it writes {path}");
        }
        assert_eq!(courier.connect(v4(self.other.local_addr().unwrap())), REFUSED, "S3: it connects elsewhere");
        assert_eq!(courier.bind("127.0.0.1:0".parse().unwrap()), REFUSED, "S3: it listens");
        assert_eq!(courier.exec("/bin/sh"), REFUSED, "S4: it runs a program");
        // What it is for works all the same, or the refusals would prove nothing.
        let mine = self.path("cache/mine");
        assert_eq!(courier.open(&mine, O_WRONLY | O_CREAT), Ok(()));
        assert_eq!(courier.unlink(&mine), Ok(()));
        assert_eq!(courier.open("/etc/hosts", O_RDONLY), Ok(()));
    }
}

#[test]
fn s1_to_s4_a_courier_that_fetches_reaches_its_source_and_nothing_else() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let mut client = scene.client();
    let tip = client.poll("refs/heads/main").unwrap().id.unwrap();
    {
        let courier = Possessed::new(client.child_id().unwrap());
        scene.nothing_else(&courier);
        assert_eq!(courier.connect(v4(scene.server.address())), Ok(()));
        assert_eq!(courier.connect(v4(scene.receiver_address())), REFUSED, "S3: it connects to the sink");
    }
    // It goes on as if nothing had been; and for anything else another is needed.
    assert_eq!(walk(&mut client, tip), files(&[("file", "content")]));
    let report = Signed { report: b"{}".to_vec(), signature: String::new() };
    let refused = client.deliver("ops", &[report]).unwrap_err().to_string();
    assert!(refused.contains("started for the source"), "{refused}");
}

#[test]
fn s1_to_s4_a_courier_that_reports_reaches_its_sink_and_nothing_else() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let mut client = scene.client();
    // It is confined before it is looked at whether there is anything to send.
    let empty = Signed { report: b"{}".to_vec(), signature: String::new() };
    client.deliver("ops", &[empty]).unwrap();
    {
        let courier = Possessed::new(client.child_id().unwrap());
        scene.nothing_else(&courier);
        assert_eq!(courier.connect(v4(scene.receiver_address())), Ok(()));
        assert_eq!(courier.connect(v4(scene.server.address())), REFUSED, "S3: it connects to the source");
    }
    let refused = client.poll("refs/heads/main").unwrap_err().to_string();
    assert!(refused.contains("started for the sink ops"), "{refused}");
}

#[test]
fn s1_a_courier_that_reads_a_repository_here_has_no_network_at_all() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let config = scene.fleet.root().join("agent.toml");
    fs::write(&config, format!("[source]\nurl = '{}'\n", scene.fleet.work().display())).unwrap();
    let mut client = Client::spawn(&trimtab_binary(), &config, &scene.fleet.root().join("cache"), PATIENCE).unwrap();
    let tip = client.poll("refs/heads/main").unwrap().id.unwrap();
    {
        let courier = Possessed::new(client.child_id().unwrap());
        assert_eq!(courier.connect(v4(scene.server.address())), REFUSED);
        assert_eq!(courier.open(&scene.path("source-token"), O_RDONLY), REFUSED);
        let head = scene.fleet.work().join(".git/HEAD").display().to_string();
        assert_eq!(courier.open(&head, O_WRONLY), REFUSED, "the repository is only read");
    }
    assert_eq!(walk(&mut client, tip), files(&[("file", "content")]));
}

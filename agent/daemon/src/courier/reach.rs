//! What a courier must be able to reach for what it was started for, and nothing beyond: files, programs and ports.
//!
//! One life of a courier is for one thing, the source, the artifacts or one sink ([`Duty`]): who takes over a courier that speaks to a sink finds neither the
//! credentials of the source in it nor a way there. What it needs is worked out from the configuration, and for ssh from what the
//! program itself says that it is configured to do (`ssh -G`).
//!
//! Limits: a port is a port on every host, for addresses change and Landlock knows none. TCP to port 53 is among them where a name has to be
//! looked up: a resolver falls back to it for long answers. Where something runs that may need anything (a `ProxyCommand` of ssh, the
//! hooks of a repository on this machine), [`Reach::of`] says why it cannot be told.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::source::{Location, SourceConfig};
use super::{CourierConfig, fetch, ssh};
use crate::sinks::SinkKind;

/// What names of hosts are looked up with, and what a program of the C library reads when it starts. What is not there is passed over.
const NAMES: [&str; 16] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/mdns.allow",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    // Files there are replaced by renames, which a rule for a file alone would not follow.
    "/run/systemd/resolve",
    // Modules of the C library that look names up.
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/dev/urandom",
];
/// Beyond that, what `ssh` reads before it looks at its own configuration.
const SSH: [&str; 12] = [
    "/etc/ssh",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/etc/selinux",
    "/etc/krb5.conf",
    "/etc/krb5.conf.d",
    "/dev/random",
    "/proc/sys/crypto",
    "/proc/self",
];
/// Where programs are, and what they are made of.
const PROGRAMS: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];
/// How long ssh may take to say what it is configured to do; it asks nobody for that.
const ANSWER: Duration = Duration::from_secs(5);
/// The most repositories that borrow objects from each other in a row, as Git itself has it.
const MAX_ALTERNATES: usize = 5;

/// What one life of a courier is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// The repository of `[source]`.
    Source,
    /// The sink of this name.
    Sink(String),
    /// Files that are no Git objects.
    Artifacts,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("the source"),
            Self::Sink(name) => write!(f, "the sink {name}"),
            Self::Artifacts => f.write_str("artifacts"),
        }
    }
}

/// What a courier may touch. Paths that do not exist are of no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Files, and folders with all that is in them, to read.
    pub read: Vec<PathBuf>,
    /// Folders and files to read and write.
    pub write: Vec<PathBuf>,
    /// Folders whose programs it may run (and read).
    pub run: Vec<PathBuf>,
    /// Ports to connect to; `None`: any.
    pub ports: Option<BTreeSet<u16>>,
}

impl Reach {
    /// What `duty` takes; what is read before the network is not in it. An error says why it cannot be told.
    pub fn of(config: &CourierConfig, duty: &Duty) -> Result<Self, &'static str> {
        let source = &config.source;
        let mut reach = match duty {
            Duty::Source => Self::source(source)?,
            Duty::Artifacts => Self::artifacts(config),
            Duty::Sink(name) => match config.sinks.iter().find(|sink| sink.name == *name) {
                None => Self { ports: Some(BTreeSet::new()), ..Self::default() },
                Some(sink) if sink.kind == SinkKind::Git => match source.url {
                    Location::Local(_) => {
                        return Err("a push to a repository on this machine runs its hooks, which may need anything");
                    }
                    _ => Self::source(source)?,
                },
                Some(sink) => Self::web(&sink.url, sink.proxy.as_deref()),
            },
        };
        reach.write.push(config.cache.clone());
        Ok(reach)
    }

    fn source(source: &SourceConfig) -> Result<Self, &'static str> {
        match &source.url {
            Location::Http { url, .. } => Ok(Self::web(url, source.proxy.as_deref())),
            Location::Ssh { .. } => Self::ssh(source),
            Location::Local(path) => Ok(Self { read: repository(path), ports: Some(BTreeSet::new()), ..Self::default() }),
        }
    }

    fn web(url: &str, proxy: Option<&str>) -> Self {
        let mut ports = match proxy {
            Some("environment") => from_environment(url),
            Some(proxy) => port_of(proxy).map(|port| BTreeSet::from([port])),
            None => port_of(url).map(|port| BTreeSet::from([port])),
        };
        if let Some(ports) = &mut ports
            && (proxy.is_some() || !is_address(url))
        {
            ports.insert(53);
        }
        Self { read: names(), ports, ..Self::default() }
    }

    /// Wherever they may come from: which one it is, a commit says.
    fn artifacts(config: &CourierConfig) -> Self {
        let mut all = Self { ports: Some(BTreeSet::new()), ..Self::default() };
        for place in fetch::places(config) {
            // By the scheme: of `https://localhost/`, too, it would say that it is a folder, the root.
            if place.scheme() == "file" {
                all.read.extend(place.to_file_path().ok());
                continue;
            }
            let one = Self::web(place.as_str(), config.source.proxy.as_deref());
            all.read = [std::mem::take(&mut all.read), one.read].concat();
            all.ports = all.ports.zip(one.ports).map(|(mut all, one)| {
                all.extend(one);
                all
            });
        }
        all
    }

    fn ssh(source: &SourceConfig) -> Result<Self, &'static str> {
        const SILENT: &str = "ssh does not say what it is configured to do (ssh -G)";
        let Location::Ssh { user, host, port, .. } = &source.url else { return Err(SILENT) };
        let mut command = Command::new("ssh");
        command.arg("-G");
        ssh::options(&mut command, source, *port);
        ssh::target(&mut command, user.as_deref(), host);
        let text = answer(&mut command, source.idle_timeout.min(ANSWER)).ok_or(SILENT)?;
        let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
        Self::told_by_ssh(&text, home.as_deref()).map(|mut reach| {
            let key = source.ssh_key.as_deref().map(SourceConfig::secret_path);
            reach.read.extend(key.into_iter().chain(source.ssh_known_hosts.clone()));
            reach
        })
    }

    /// From what `ssh -G` prints: a keyword in small letters and its value on each line.
    fn told_by_ssh(text: &str, home: Option<&Path>) -> Result<Self, &'static str> {
        let mut reach = Self { read: names(), run: PROGRAMS.map(PathBuf::from).into(), ..Self::default() };
        reach.read.extend(SSH.map(PathBuf::from));
        reach.read.extend(home.map(|home| home.join(".ssh")));
        reach.write.push("/dev/null".into());
        let (mut port, mut jumps) = (None, false);
        for (word, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let none = matches!(value, "none" | "");
            match word {
                "port" => port = value.parse().ok(),
                "proxyjump" => jumps |= !none,
                "proxycommand" | "knownhostscommand" if !none => {
                    return Err(
                        "ssh is configured to run a program of its own (ProxyCommand or KnownHostsCommand), which may need anything",
                    );
                }
                "identityfile" | "certificatefile" | "userknownhostsfile" | "globalknownhostsfile" | "revokedhostkeys" if !none => {
                    reach.read.extend(value.split(' ').flat_map(|path| with_companions(path, home)));
                }
                _ => {}
            }
        }
        let port = port.ok_or("ssh does not say to which port it would connect (ssh -G)")?;
        // Jumps have ports of their own, which are told only when they are made.
        reach.ports = (!jumps).then(|| BTreeSet::from([port, 53]));
        Ok(reach)
    }
}

/// What a program prints that ends well and in time. More than a pipe holds (64 KiB) it has no room for, and is late.
fn answer(command: &mut Command, patience: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.take(64 << 10).read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

/// A file that ssh names, and what it looks for beside a key.
fn with_companions(path: &str, home: Option<&Path>) -> Vec<PathBuf> {
    let path = match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => path.to_owned(),
    };
    ["", ".pub", "-cert", "-cert.pub"].iter().map(|ending| PathBuf::from(format!("{path}{ending}"))).collect()
}

fn names() -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = NAMES.map(PathBuf::from).into();
    // Wherever the resolver's file really is, it is replaced there when the network changes.
    let real = fs::canonicalize("/etc/resolv.conf").ok().filter(|real| real.starts_with("/run"));
    names.extend(real.as_deref().and_then(Path::parent).filter(|folder| *folder != Path::new("/run")).map(Path::to_owned));
    names
}

/// The port of a URL, or of a proxy that is written without its scheme.
fn port_of(url: &str) -> Option<u16> {
    let parsed = reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host);
    parsed.or_else(|| reqwest::Url::parse(&format!("http://{url}")).ok())?.port_or_known_default()
}

/// A host that is written as an address needs no look-up.
fn is_address(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

/// The proxies of the environment, and the way past them.
fn from_environment(url: &str) -> Option<BTreeSet<u16>> {
    let mut ports = BTreeSet::from([port_of(url)?]);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        if let Some(proxy) = std::env::var(name).ok().filter(|proxy| !proxy.is_empty()) {
            ports.insert(port_of(&proxy)?);
        }
    }
    Some(ports)
}

/// The folders of a repository on this machine, and of those that it borrows from. Links out of it are followed for what Git puts links in place of.
fn repository(path: &Path) -> Vec<PathBuf> {
    let text = |path: PathBuf| fs::read_to_string(path).ok().filter(|text| text.len() < 1 << 16);
    let mut folders = vec![path.to_owned()];
    let dot_git = path.join(".git");
    let mut git = if dot_git.is_dir() { dot_git.clone() } else { path.to_owned() };
    if let Some(elsewhere) = text(dot_git).and_then(|text| Some(path.join(text.strip_prefix("gitdir:")?.trim()))) {
        git = elsewhere;
    }
    let common = text(git.join("commondir")).map(|common| git.join(common.trim()));
    folders.push(git.clone());
    folders.extend(common.clone());
    let mut stores = vec![common.unwrap_or(git).join("objects")];
    for _ in 0..MAX_ALTERNATES {
        let borrowed = stores.iter().flat_map(|store| {
            let list = text(store.join("info/alternates")).unwrap_or_default();
            list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| store.join(line)).collect::<Vec<_>>()
        });
        let next: Vec<_> = borrowed.filter(|store| !folders.contains(store)).collect();
        folders.append(&mut stores);
        stores = next;
    }
    for part in ["refs", "objects/pack", "packed-refs"] {
        folders.extend(folders.iter().map(|folder| folder.join(part)).filter(|part| part.exists()).collect::<Vec<_>>());
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports<const N: usize>(list: [u16; N]) -> BTreeSet<u16> {
        list.into()
    }

    fn sink(text: &str) -> CourierConfig {
        #[derive(serde::Deserialize)]
        struct Both {
            source: SourceConfig,
            sink: Vec<crate::sinks::SinkConfig>,
            #[serde(default)]
            artifacts: crate::courier::Artifacts,
        }
        let both: Both = toml::from_str(text).unwrap();
        CourierConfig { source: both.source, sinks: both.sink, artifacts: both.artifacts, cache: "/cache".into() }
    }

    #[test]
    fn ports_come_from_the_source_the_proxy_or_the_sink_alone() {
        let config = sink(
            "[source]\nurl = 'https://git.example/x'\n[[sink]]\nname = 'a'\ntype = 'webhook'\nurl = 'https://10.0.0.1:8443/x'\n\
             [[sink]]\nname = 'b'\ntype = 'otlp'\nurl = 'https://otlp.example'\nproxy = 'proxy.example:3128'\n\
             [[sink]]\nname = 'g'\ntype = 'git'\n[artifacts]\nallow = ['https://dl.example:9443/a/', 'file:///srv/files/']",
        );
        let of = |duty: &Duty| Reach::of(&config, duty).unwrap().ports.unwrap();
        let to = |name: &str| of(&Duty::Sink(name.to_owned()));
        assert_eq!(of(&Duty::Source), ports([53, 443]));
        assert_eq!((to("a"), to("b"), to("g")), (ports([8443]), ports([53, 3128]), ports([53, 443])));
        let artifacts = Reach::of(&config, &Duty::Artifacts).unwrap();
        assert_eq!(artifacts.ports.unwrap(), ports([53, 443, 9443]));
        assert!(artifacts.read.contains(&"/srv/files/".into()), "{:?}", artifacts.read);
        assert_eq!(to("who"), ports([]), "who does not exist reaches nothing");
        let mut here = config.clone();
        here.source.url = Location::parse("/srv/fleet.git").unwrap();
        assert_eq!(Reach::of(&here, &Duty::Source).unwrap().ports.unwrap(), ports([]));
        assert!(Reach::of(&here, &Duty::Sink("g".to_owned())).unwrap_err().contains("hooks"));
        let mut proxied = config.clone();
        proxied.source.proxy = Some("http://u:p@127.0.0.1:8080".into());
        assert_eq!(Reach::of(&proxied, &Duty::Source).unwrap().ports.unwrap(), ports([53, 8080]));
    }

    #[test]
    fn what_ssh_says_of_itself_is_taken_and_what_it_hides_is_not_guessed() {
        let told = "host far\nport 2222\nproxycommand none\nidentityfile ~/.ssh/id_x\nuserknownhostsfile /a /b\n";
        let reach = Reach::told_by_ssh(told, Some(Path::new("/home/c"))).unwrap();
        assert_eq!(reach.ports.unwrap(), ports([53, 2222]));
        for path in ["/home/c/.ssh/id_x", "/home/c/.ssh/id_x-cert.pub", "/a", "/b", "/etc/ssh"] {
            assert!(reach.read.contains(&path.into()), "{path} is not in {:?}", reach.read);
        }
        assert_eq!(Reach::told_by_ssh("port 22\nproxyjump bastion\n", None).unwrap().ports, None);
        assert!(Reach::told_by_ssh("port 22\nproxycommand nc %h %p\n", None).is_err());
        assert!(Reach::told_by_ssh("no such option", None).is_err());
    }

    #[test]
    fn a_repository_is_read_with_those_that_it_borrows_from() {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        make("work/.git", "gitdir: ../main/.git/worktrees/work\n");
        make("main/.git/worktrees/work/commondir", "../..\n");
        make("main/.git/objects/info/alternates", "../../../lent/objects\n");
        make("lent/objects/pack/x.pack", "");
        let found: Vec<_> =
            repository(&folder.path().join("work")).into_iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        for path in ["work", "main/.git", "main/.git/objects", "lent/objects"] {
            assert!(found.contains(&folder.path().join(path).canonicalize().unwrap()), "{path} is not in {found:?}");
        }
    }
}

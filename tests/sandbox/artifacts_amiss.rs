//! Artifacts when something else goes wrong: a disk that fills up while they come or are placed, processes that are killed, servers that change
//! their mind, send elsewhere or trickle; and one of half a gibibyte, which must not cost memory.
//!
//! What each has in common: the host keeps what it had, says what is wrong, goes on by itself when that is over, and nothing is left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trimtab_model::digest::Digest;
use trimtab_model::report::{Outcome, Pass};
use trimtab_tests::server::{Auth, Authority, Fault, GitServer, Tls};

use crate::artifacts::{Shop, TOOL, program, told};
use crate::{Sandbox, until};

const STATE: &str = "var/lib/trimtab";

/// A pass that runs beside the test.
struct Running(Child);

impl Running {
    fn new(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.trimtab(&["once", "--json"]);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// How it ended.
    fn pass(mut self) -> Pass {
        let (mut out, mut err) = (Vec::new(), String::new());
        self.0.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        self.0.wait().unwrap();
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {err}"))
    }

    /// The courier that fetches for it: of its children that are couriers, the newest.
    fn courier(&self) -> Option<u32> {
        let pid = self.0.id();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let children: Vec<u32> = tasks
            .flatten()
            .flat_map(|task| {
                fs::read_to_string(task.path().join("children"))
                    .unwrap_or_default()
                    .split(' ')
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        let is_courier = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.split(|b| *b == 0).nth(1) == Some(b"courier"))
        };
        children.into_iter().filter(is_courier).max()
    }
}

fn is_gone(pid: u32) -> bool {
    // One that has ended and was not waited for is gone as well.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// A file system of so many KiB at this folder, which only this test sees; what stood there is on it. `None` without root.
fn memory_at(folder: &Path, kib: u64) -> Option<Memory> {
    if !nix::unistd::geteuid().is_root() {
        println!("left out: mounting needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    fs::create_dir_all(folder).unwrap();
    let kept = tempfile::tempdir().unwrap();
    copy(folder, kept.path());
    mount(Some("amiss"), folder, Some("tmpfs"), MsFlags::empty(), Some(format!("mode=700,size={kib}k").as_str())).unwrap();
    copy(kept.path(), folder);
    Some(Memory(folder.to_owned()))
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap().success());
}

struct Memory(PathBuf);

impl Memory {
    /// Somebody else takes all that is left but so many KiB.
    fn fill(&self, but_kib: u64) {
        let stat = nix::sys::statvfs::statvfs(&self.0).unwrap();
        let free = stat.blocks_free() * stat.fragment_size();
        fs::write(self.0.join("others"), vec![1; usize::try_from(free.saturating_sub(but_kib << 10)).unwrap()]).unwrap();
    }

    /// And takes it away again.
    fn free(&self) {
        fs::remove_file(self.0.join("others")).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A host that has converged once, so that what is new is a change.
fn settled(more: &str) -> Shop {
    let shop = Shop::with(more);
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    shop
}

/// How much has come of an artifact.
fn came(shop: &Shop, bytes: &[u8]) -> u64 {
    let part = shop.sandbox.root().join(STATE).join("parts").join(Digest::of(bytes).hex());
    fs::metadata(part).map_or(0, |seen| seen.len())
}

fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".trimtab-")).collect()
}

#[test]
fn a_disk_that_others_fill_while_an_artifact_comes_gets_back_what_came() {
    let shop = settled("");
    let Some(disk) = memory_at(&shop.sandbox.root().join(STATE), 16 << 10) else { return };
    let bytes = program(21, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Stall(1_500_000));
    let running = Running::new(&shop.sandbox);
    until("some of it came", || came(&shop, &bytes) > 0);
    disk.fill(900);
    shop.server.set_fault(Fault::None);
    let pass = running.pass();
    let said = told(&pass);
    assert_eq!((pass.outcome, shop.tool()), (Outcome::Partial, None), "{said}");
    assert!(said.contains("free some space"), "{said}");
    assert_eq!(shop.parts(), 0, "what keeps others from writing is given up");
    assert_eq!(shop.sandbox.read("etc/two.conf"), "two\n");
    // It is asked for again by itself, and nothing is begun that has no room.
    shop.server.reset();
    let pass = shop.sandbox.once();
    assert!(pass.outcome == Outcome::Partial && told(&pass).contains("free some space"), "{:?}: {}", pass.outcome, told(&pass));
    assert!(shop.asked().is_empty(), "{:?}", shop.asked());
    disk.free();
    let pass = shop.sandbox.once();
    assert_eq!((pass.outcome, shop.tool() == Some(bytes), shop.parts()), (Outcome::Converged, true, 0), "{}", told(&pass));
}

#[test]
fn what_came_of_an_artifact_is_given_up_when_the_disk_fills_up_later() {
    let shop = settled("[agent]\npull-timeout = \"1s\"\n");
    let Some(disk) = memory_at(&shop.sandbox.root().join(STATE), 16 << 10) else { return };
    let bytes = program(22, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Stall(1_500_000));
    assert_eq!(shop.sandbox.once().outcome, Outcome::Partial);
    assert!(came(&shop, &bytes) > 0);
    disk.fill(900);
    shop.server.set_fault(Fault::None);
    let pass = shop.sandbox.once();
    assert_eq!(pass.outcome, Outcome::Partial);
    assert_eq!(shop.parts(), 0, "{}", told(&pass));
    disk.free();
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.tool(), Some(bytes));
}

#[test]
fn a_full_disk_where_it_is_to_stand_leaves_the_old_one_there_and_costs_no_second_fetch() {
    let shop = settled("");
    let old = program(23, 500_000);
    shop.offer("old", &old);
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    let folder = shop.sandbox.root().join(TOOL).parent().unwrap().to_owned();
    let Some(disk) = memory_at(&folder, 12 << 10) else { return };
    let new = program(24, 2_000_000);
    shop.offer("new", &new);
    shop.server.set_fault(Fault::Stall(900_000));
    let running = Running::new(&shop.sandbox);
    until("some of it came", || came(&shop, &new) > 0);
    disk.fill(1000);
    shop.server.set_fault(Fault::None);
    let pass = running.pass();
    let said = told(&pass);
    assert!(!pass.outcome.is_ready() && said.contains("/usr/local/bin/tool"), "{:?} {said}", pass.outcome);
    assert!(said.contains("No space left") || said.contains("free some space"), "{said}");
    assert_eq!(
        (shop.tool().as_ref() == Some(&old), temporaries(&folder)),
        (true, Vec::new()),
        "the old one stands, and nothing beside it"
    );
    disk.free();
    shop.server.reset();
    let mut pass = shop.sandbox.once();
    if !pass.outcome.is_ready() {
        pass = shop.sandbox.once();
    }
    assert_eq!((pass.outcome.is_ready(), shop.tool() == Some(new)), (true, true), "{:?} {}", pass.outcome, told(&pass));
    let again = shop.asked();
    assert!(again.iter().all(|line| !line.contains("/files/new")), "it was here already: {again:?}");
}

#[test]
fn a_courier_that_is_killed_in_the_middle_is_followed_by_another_that_goes_on() {
    let shop = settled("");
    let bytes = program(25, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Trickle(Duration::from_millis(1)));
    shop.server.reset();
    let running = Running::new(&shop.sandbox);
    until("it is asked", || shop.asked().iter().any(|line| line.contains("/files/")));
    let courier = running.courier().expect("because it fetches");
    shop.server.set_fault(Fault::None);
    kill(Pid::from_raw(courier.cast_signed()), Signal::SIGKILL).unwrap();
    let pass = running.pass();
    assert_eq!((pass.outcome, shop.tool() == Some(bytes), shop.parts()), (Outcome::Converged, true, 0), "{}", told(&pass));
    assert!(is_gone(courier));
}

#[test]
fn an_agent_that_is_killed_in_the_middle_leaves_no_courier_and_is_gone_on_from() {
    let shop = settled("");
    let bytes = program(26, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Stall(1_500_000));
    let mut running = Running::new(&shop.sandbox);
    until("some of it came", || came(&shop, &bytes) > 1_000_000);
    let courier = running.courier().expect("because it fetches");
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    until("nobody is left", || is_gone(courier));
    assert_eq!(shop.tool(), None);
    shop.server.set_fault(Fault::None);
    shop.server.reset();
    let pass = shop.sandbox.once();
    assert_eq!((pass.outcome, shop.tool() == Some(bytes), shop.parts()), (Outcome::Converged, true, 0), "{}", told(&pass));
    let asked = shop.asked();
    assert!(asked.iter().any(|line| line.contains("range: bytes=")), "{asked:?}");
}

#[test]
fn what_nobody_wants_any_more_takes_no_room() {
    let shop = settled("[agent]\npull-timeout = \"1s\"\n");
    let bytes = program(27, 3_000_000);
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Stall(1_500_000));
    assert_eq!(shop.sandbox.once().outcome, Outcome::Partial);
    assert_eq!(shop.parts(), 1);
    // Another one instead, which does not come either.
    shop.offer("tool", &program(28, 3_000_000));
    assert_eq!(shop.sandbox.once().outcome, Outcome::Partial);
    assert_eq!(shop.parts(), 1, "one for each that is wanted");
    // The revision is taken back: the host is as that wants it already, and nothing is done.
    shop.sandbox.repo.git(&["rm", "--quiet", "components/one/component.toml"]);
    shop.sandbox.push();
    let pass = shop.sandbox.once();
    assert!(pass.outcome.is_ready(), "{}", told(&pass));
    assert_eq!(shop.parts(), 0);
}

#[test]
fn a_file_that_changes_between_two_parts_is_found_out_and_fetched_anew() {
    let shop = settled("");
    let (bytes, other) = (program(29, 3_000_000), program(30, 3_000_000));
    shop.offer("tool", &bytes);
    shop.server.set_fault(Fault::Stall(1_500_000));
    let running = Running::new(&shop.sandbox);
    until("some of it came", || came(&shop, &bytes) > 0);
    let at = shop.folder.path().join("files/tool");
    fs::write(&at, &other).unwrap();
    shop.server.set_fault(Fault::None);
    let pass = running.pass();
    assert_eq!((pass.outcome, shop.tool(), shop.parts()), (Outcome::Partial, None, 0), "{}", told(&pass));
    assert!(told(&pass).contains("its digest is sha256:"), "{}", told(&pass));
    fs::write(&at, &bytes).unwrap();
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.tool(), Some(bytes));
}

#[test]
fn a_server_that_sends_another_part_or_trickles_is_told_in_time() {
    let shop = settled("[agent]\npull-timeout = \"3s\"\n");
    let bytes = program(31, 3_000_000);
    shop.offer("tool", &bytes);
    let parts = shop.sandbox.root().join(STATE).join("parts");
    fs::create_dir_all(&parts).unwrap();
    fs::write(parts.join(Digest::of(&bytes).hex()), &bytes[..1_000_000]).unwrap();
    for (fault, says) in [
        (Fault::OtherRange, "another part of the file than was asked for"),
        (Fault::Trickle(Duration::from_millis(20)), "bytes came within 3s (agent.pull-timeout)"),
    ] {
        shop.server.set_fault(fault.clone());
        let begun = Instant::now();
        let pass = shop.sandbox.once();
        println!("{fault:?}: {} after {:?}", told(&pass), begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(15), "{fault:?} took {:?}", begun.elapsed());
        assert!(pass.outcome == Outcome::Partial && told(&pass).contains(says), "{fault:?}: {}", told(&pass));
        assert!(shop.tool().is_none() && came(&shop, &bytes) >= 1_000_000, "{fault:?}: what came is kept");
    }
    shop.server.set_fault(Fault::None);
    assert_eq!(shop.sandbox.once().outcome, Outcome::Converged);
    assert_eq!(shop.tool(), Some(bytes));
}

#[test]
fn a_redirect_takes_no_credentials_along_and_leads_nowhere_else() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("files")).unwrap();
    fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    fs::write(folder.path().join("token"), "sesame\n").unwrap();
    let start = || GitServer::start(folder.path(), Tls::On(&authority));
    let (own, allowed, inside) = (start(), start(), start());
    own.set_auth(Auth::Header("Bearer sesame".to_owned()));
    let sandbox = Sandbox::new("");
    let bytes = program(32, 5000);
    fs::write(folder.path().join("files/tool"), &bytes).unwrap();
    let (size, digest) = (bytes.len(), Digest::of(&bytes).hex());
    let text =
        format!("[[artifact]]\npath = \"/{TOOL}\"\nurl = \"{}/files/tool\"\nsize = {size}\nsha256 = \"{digest}\"\n", own.url());
    sandbox.repo.write("components/one/component.toml", text);
    sandbox.push();
    crate::artifacts::follow(&sandbox, folder.path(), &own, &allowed);
    let files = |server: &GitServer| server.log().into_iter().filter(|line| line.contains("/files/")).collect::<Vec<_>>();
    // The source's own server points to one that no setting names: that one is not even asked.
    own.set_fault(Fault::RedirectFiles(format!("{}/files/tool?metadata=1", inside.url())));
    let pass = sandbox.once();
    assert!(told(&pass).contains("does not fetch") && !told(&pass).contains("metadata"), "{}{}", told(&pass), pass.source_error);
    assert_eq!((inside.requests(), sandbox.root().join(TOOL).exists()), (0, false));
    // And to one that is named: it is asked, without what is the source's secret.
    own.set_fault(Fault::RedirectFiles(format!("{}/files/tool", allowed.url())));
    let pass = sandbox.once();
    assert_eq!(fs::read(sandbox.root().join(TOOL)).ok(), Some(bytes), "{}{}", told(&pass), pass.source_error);
    assert!(files(&own).iter().all(|line| line.contains("authorization: Bearer sesame")), "{:?}", files(&own));
    let elsewhere = files(&allowed);
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|line| !line.contains("sesame")), "{elsewhere:?}");
}

#[test]
fn a_large_file_on_a_slow_disk_is_no_agent_that_hangs() {
    // What the unit says with WatchdogSec=: an agent that is silent for longer is killed, in the middle of its work, again and again.
    const WATCHDOG: Duration = Duration::from_secs(3);
    let sandbox = Sandbox::new("");
    let bytes = program(33, 6_000_000);
    let file = sandbox.repo.path().parent().unwrap().join(format!("{}.tool", sandbox.repo.path().file_name().unwrap().display()));
    fs::write(&file, &bytes).unwrap();
    let (size, digest, url) = (bytes.len(), Digest::of(&bytes).hex(), file.display());
    let text = format!("[[artifact]]\npath = \"/{TOOL}\"\nurl = \"file://{url}\"\nsize = {size}\nsha256 = \"{digest}\"\n");
    sandbox.repo.write("components/one/component.toml", text);
    sandbox.push();
    let socket = sandbox.root().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(WATCHDOG * 3)).unwrap();
    let agent = sandbox.trimtab(&["agent"]);
    // Each write of 16 KiB takes as long as on a card that takes a mebibyte in a second.
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=write", "-e", "inject=write:delay_enter=14000", "-o", "/dev/null"]);
    strace
        .arg(agent.get_program())
        .args(agent.get_args())
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut running = Strace(strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let (begun, mut last, mut longest, mut message) = (Instant::now(), Instant::now(), Duration::ZERO, [0; 4096]);
    while fs::metadata(sandbox.root().join(TOOL)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came");
        systemd.recv(&mut message).expect("because it lives");
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    println!("in its place after {:?}; silent for {longest:?} at most", begun.elapsed());
    running.end();
    fs::remove_file(file).unwrap();
    assert!(begun.elapsed() > WATCHDOG * 2, "a disk that is not slow shows nothing: {:?}", begun.elapsed());
    assert!(longest < WATCHDOG, "silent for {longest:?}");
}

/// An agent under strace: ended with it.
struct Strace(Child);

impl Strace {
    fn end(&mut self) {
        // strace takes its own end as that of what it watches; what is left is the agent, its only child.
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server of one file of zeros, in no memory.
fn zeros(size: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/zeros", listener.local_addr().unwrap());
    let serve = move |mut stream: TcpStream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes())?;
        let (chunk, mut left) = (vec![0; 256 << 10], size);
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            stream.write_all(&chunk[..now])?;
            left -= now as u64;
        }
        Ok::<(), std::io::Error>(())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that went away is its own business.
            let _ = serve(stream);
        }
    });
    url
}

/// The most memory that a process has used, in KiB; 0 for one that has ended.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// The most memory that agent and courier use, in KiB, to fetch and place so many zeros, read from outside.
fn cost(size: u64, sha256: &str) -> [u64; 2] {
    let sandbox = Sandbox::new("");
    let url = zeros(size);
    let toml = sandbox.root().join("etc/trimtab/agent.toml");
    let text = fs::read_to_string(&toml).unwrap().replacen("[source]\n", "[source]\nallow-http = true\n", 1);
    let allow = url.trim_end_matches("zeros");
    fs::write(&toml, format!("{text}[artifacts]\nallow = [\"{allow}\"]\n")).unwrap();
    let declared = format!("[[artifact]]\npath = \"/srv/zeros\"\nurl = \"{url}\"\nsize = {size}\nsha256 = \"{sha256}\"\n");
    sandbox.repo.write("components/one/component.toml", declared);
    sandbox.push();
    let begun = Instant::now();
    let mut running = Running::new(&sandbox);
    let [mut agent, mut courier] = [0, 0];
    while running.0.try_wait().unwrap().is_none() {
        agent = agent.max(peak(running.0.id()));
        courier = courier.max(running.courier().map_or(0, peak));
        std::thread::sleep(Duration::from_millis(2));
    }
    let pass = running.pass();
    println!("{} MiB in {:?}: agent {agent} KiB, courier {courier} KiB", size >> 20, begun.elapsed());
    assert_eq!(pass.outcome, Outcome::Converged, "{}", told(&pass));
    assert_eq!(fs::metadata(sandbox.root().join("srv/zeros")).unwrap().len(), size);
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    assert!(agent > 0 && courier > 0, "both were seen");
    [agent, courier]
}

/// What it costs beyond what one of two pieces does: next to nothing, however large it is.
fn is_cheap(size: u64, sha256: &str) {
    let small = cost(2 << 20, "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee");
    let large = cost(size, sha256);
    for (who, large, small) in [("agent", large[0], small[0]), ("courier", large[1], small[1])] {
        assert!(large < small + (6 << 10), "the {who} took {large} KiB for {} MiB, and {small} KiB for two", size >> 20);
        // A build that is not optimised, with all its pages: the bound of what is shipped is measured elsewhere.
        assert!(large < 40 << 10, "the {who} took {large} KiB");
    }
}

#[test]
fn a_large_artifact_costs_no_memory() {
    is_cheap(64 << 20, "3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351");
}

#[test]
fn soak_an_artifact_of_half_a_gibibyte_costs_no_memory() {
    is_cheap(512 << 20, "9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767");
}

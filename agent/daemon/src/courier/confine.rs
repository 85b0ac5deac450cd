//! The last wall around a courier: Landlock, put up by the process itself before the first byte of the network.
//!
//! systemd's directives bound what a courier can do at all; this bounds it to what its duty takes ([`Reach`]), also where there is no systemd (the
//! demo, a binary started by hand, root). It can never be taken down again, and children (`ssh`) are behind it too.
//!
//! Guarantees: with a kernel that has Landlock, no file opens and no program runs outside of the reach, and nothing is written but in the
//! cache; from Linux 6.7 on no TCP connection to another port and no TCP socket that listens; from 6.12 on no signal to and no abstract
//! socket of a process outside. What the kernel lacks is left out, and nothing breaks for it.
//! Limits: UDP, and sockets in the file system, are systemd's to bound. What was open before stays open: the agent's connection and standard
//! error. Linux before 5.19 knows no renames between folders under Landlock, and the cache needs them: no wall there.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, NetPort, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};
use trimtab_model::status::{CourierStatus, Landlock};

use super::CourierConfig;
use super::reach::{Duty, Reach};

/// The newest of the kernel's Landlock that this was tried with; what older ones lack is left out.
const NEWEST: ABI = ABI::V6;
/// The first with rules for TCP.
const WITH_NET: ABI = ABI::V4;

/// Whether the wall stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wall {
    /// All of it.
    Whole,
    /// As much as this kernel can; what that is.
    Partial(String),
    /// The kernel has no Landlock, or it is not switched on; which.
    Missing(String),
    /// There is none, for this reason.
    Not(String),
}

impl Wall {
    /// As the status document tells it.
    pub(super) fn told(self) -> CourierStatus {
        let (landlock, detail) = match self {
            Self::Whole => (Landlock::Whole, String::new()),
            Self::Partial(what) => (Landlock::Partial, what),
            Self::Missing(why) => (Landlock::Missing, why),
            Self::Not(why) => (Landlock::None, why),
        };
        CourierStatus { landlock, detail }
    }
}

/// Confines the calling thread, and the threads and programs that it starts, to what `duty` takes. There is no way back.
///
/// Everything that is read from the disk for the duty (configuration, secrets, certificates) must have been read.
pub fn confine(config: &CourierConfig, duty: &Duty) -> Wall {
    match Reach::of(config, duty) {
        Err(why) => Wall::Not(why.to_owned()),
        Ok(reach) => {
            // There is no rule for what is not there yet. Who cannot make it says so when it is needed.
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.cache);
            confine_to(&reach)
        }
    }
}

/// The same for what is reached in so many words.
pub fn confine_to(reach: &Reach) -> Wall {
    match raise(reach) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, .. }) => Wall::Whole,
        Ok(RestrictionStatus { ruleset: RulesetStatus::PartiallyEnforced, landlock, .. }) => Wall::Partial(lacking(landlock)),
        Ok(RestrictionStatus { landlock, .. }) => Wall::Missing(lacking(landlock)),
        Err(error) => Wall::Not(super::chain(&error)),
    }
}

/// What keeps the wall from being whole.
fn lacking(landlock: LandlockStatus) -> String {
    match landlock {
        LandlockStatus::NotEnabled => {
            "this kernel has Landlock, and it is not switched on (lsm= on the kernel's command line)".to_owned()
        }
        LandlockStatus::NotImplemented => "this kernel was built without Landlock (CONFIG_SECURITY_LANDLOCK)".to_owned(),
        LandlockStatus::Available { effective_abi, .. } => {
            format!("this kernel has Landlock {effective_abi:?}, and the courier asks for {NEWEST:?}")
        }
    }
}

fn raise(reach: &Reach) -> Result<RestrictionStatus, RulesetError> {
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let run = read | AccessFs::Execute;
    // No sockets, no devices: a cache has none.
    let write =
        read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer});
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if reach.ports.is_some() {
        rules = rules.handle_access(AccessNet::from_all(WITH_NET))?;
    }
    let mut rules = rules
        .create()?
        .add_rules(existing(&reach.read, read))?
        .add_rules(existing(&reach.write, write))?
        .add_rules(existing(&reach.run, run))?;
    for port in reach.ports.iter().flatten() {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    if !reach.run.is_empty() && reach.ports.is_some() {
        // Whichever port the kernel picks: ssh may be told which of this host's addresses to come from.
        rules = rules.add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    }
    rules.restrict_self()
}

/// Rules for the paths that are there; for a file what files know of it.
fn existing(
    paths: &[impl AsRef<Path>],
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<landlock::PathBeneath<landlock::PathFd>, RulesetError>> {
    path_beneath_rules(paths.iter().map(AsRef::as_ref), access)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::*;

    /// In a thread of its own: the wall is the thread's, and stays.
    fn behind<T: Send + 'static>(reach: Reach, work: impl FnOnce(Wall) -> T + Send + 'static) -> T {
        std::thread::spawn(move || work(confine_to(&reach))).join().unwrap()
    }

    #[test]
    fn behind_the_wall_is_what_was_named_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [inside, outside] = ["inside", "outside"].map(|name| folder.path().join(name));
        for folder in [&inside, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("file"), "x").unwrap();
        }
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [open, closed] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let ports = Some([open.port()].into());
        let reach = Reach { read: vec!["/etc/hosts".into()], write: vec![inside.clone()], ports, ..Reach::default() };
        let Some(tried) = behind(reach, move |wall| {
            let denied = |kind: ErrorKind| kind == ErrorKind::PermissionDenied;
            // A kernel that cannot is no failure of ours; the lab's can.
            if wall != Wall::Whole {
                return None;
            }
            fs::create_dir_all(inside.join("a/b")).unwrap();
            fs::write(inside.join("a/b/c"), "y").unwrap();
            fs::rename(inside.join("a/b/c"), inside.join("moved")).unwrap();
            fs::read("/etc/hosts").unwrap();
            TcpStream::connect(open).unwrap();
            Some([
                ("read", denied(fs::read(outside.join("file")).unwrap_err().kind())),
                ("list", denied(fs::read_dir(&outside).unwrap_err().kind())),
                ("write", denied(fs::write(outside.join("new"), "").unwrap_err().kind())),
                ("passwd", denied(fs::read("/etc/passwd").unwrap_err().kind())),
                ("steal", denied(fs::rename(outside.join("file"), inside.join("file")).unwrap_err().kind())),
                ("run", denied(Command::new("/bin/true").status().unwrap_err().kind())),
                ("connect", denied(TcpStream::connect(closed).unwrap_err().kind())),
                ("listen", denied(TcpListener::bind("127.0.0.1:0").unwrap_err().kind())),
            ])
        }) else {
            return;
        };
        drop(listeners);
        for (what, denied) in tried {
            assert!(denied, "{what}");
        }
        assert!(fs::read("/etc/passwd").is_ok(), "the wall is that thread's alone");
    }
}

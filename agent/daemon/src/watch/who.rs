//! Who a process is, read from /proc while it may still be there.
//!
//! Guarantees: nothing is guessed: what could not be read is absent, and of a process that is gone only its number is told. Arguments and
//! environment are never read: secrets are among them. Everything is bounded, and free of control characters.
//! Limits: what is told is the process as it was when it was looked at, microseconds to milliseconds after the event: one that has started another program
//! since is told as that. The path of the program is told only of processes that have no more rights than the agent.

use std::fs;
use std::path::Path;

use trimtab_model::drift::Actor;

/// What the kernel says for "no login": `(uid_t) -1`.
const UNSET: u32 = u32::MAX;

/// No name of a program, a unit or a user is told longer than this, in characters.
const LONGEST: usize = 200;

/// A process as far as it can still be read. Users are numbers; [`named`] gives them their names.
pub(super) fn actor(pid: u32) -> Actor {
    let folder = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name).and_then(|text| text.trim().parse().ok()).filter(|number: &u32| *number != UNSET);
    // The order is that of their worth: it may end between any two of them.
    let command = read("comm").map(|text| clean(text.trim_end_matches('\n'))).unwrap_or_default();
    let unit = read("cgroup").map(|text| unit(&text)).unwrap_or_default();
    let login = number("loginuid").map(|uid| uid.to_string()).unwrap_or_default();
    let session = number("sessionid");
    let user = read("status").and_then(|text| effective(&text)).unwrap_or_default();
    let program = fs::read_link(folder.join("exe")).map(|path| clean(&path.to_string_lossy())).unwrap_or_default();
    Actor { pid: Some(pid), command, program, user, login, session, unit, ..Actor::default() }
}

/// Whether more than the number is known.
pub(super) fn is_known(actor: &Actor) -> bool {
    !actor.command.is_empty() || !actor.unit.is_empty()
}

/// With the names of its users in place of their numbers, where they have some.
pub(super) fn named(mut actor: Actor, mut name: impl FnMut(u32) -> Option<String>) -> Actor {
    for user in [&mut actor.user, &mut actor.login] {
        if let Some(known) = user.parse().ok().and_then(&mut name) {
            *user = clean(&known);
        }
    }
    actor
}

/// `Uid: 1000 0 0 0`: real, effective, saved, of the file system.
fn effective(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

/// The innermost service or scope of `0::/user.slice/user-1000.slice/session-3.scope`, or of systemd's own hierarchy before that.
fn unit(cgroup: &str) -> String {
    let of = |prefix: &str| cgroup.lines().find_map(|line| line.strip_prefix(prefix));
    let named = cgroup.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let Some(path) = of("0::").filter(|path| path.len() > 1).or(named) else { return String::new() };
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    path.rsplit('/').find(is_unit).map(clean).unwrap_or_default()
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_in_both_hierarchies() {
        for (cgroup, found) in [
            ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
            ("0::/system.slice/web.service/libpod-payload-1\n", "web.service"),
            ("0::/user.slice/user-1.slice/user@1.service/app.slice/x.service\n", "x.service"),
            ("12:cpu:/\n1:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
            ("0::/\n", ""),
            ("0::/../../odd\n", ""),
            ("", ""),
        ] {
            assert_eq!(unit(cgroup), found, "{cgroup}");
        }
    }

    #[test]
    fn a_process_that_is_there_is_told_and_one_that_is_gone_is_a_number() {
        let own = actor(std::process::id());
        assert!(is_known(&own) && own.user == nix::unistd::geteuid().to_string(), "{own:?}");
        assert_eq!(Path::new(&own.program), std::env::current_exe().unwrap());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let gone = actor(child.id());
        assert_eq!(gone, Actor { pid: Some(child.id()), ..Actor::default() });
        assert!(!is_known(&gone) && gone.words().contains("gone"));
    }

    #[test]
    fn names_take_the_place_of_numbers() {
        let actor = Actor { user: "0".into(), login: "1000".into(), ..Actor::default() };
        let named = named(actor, |uid| (uid == 0).then(|| "root".to_owned()));
        assert_eq!((named.user.as_str(), named.login.as_str()), ("root", "1000"));
    }

    #[test]
    fn what_a_process_calls_itself_cannot_break_a_line() {
        assert_eq!(clean("a\nb\x1b[31m"), "a?b?[31m");
        assert_eq!(clean(&"x".repeat(1000)).len(), LONGEST);
    }
}

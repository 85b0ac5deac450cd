//! Every system call that changes something fails in turn, with the errors that it can have; and a process that may have few handles.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use trimtab_tests::sweep::{pick, sweep};
use trimtab_tests::trace::calls::Kind;
use trimtab_tests::trace::{End, Verdict};

use crate::scene::{Ran, Scene};

/// What fails.
struct Fault {
    place: usize,
    errno: Errno,
    /// Every later call as well, as a disk that broke does; otherwise this one alone.
    lasting: bool,
    call: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {:?} at {}", self.place, if self.lasting { " and on" } else { "" }, self.errno, self.call)
    }
}

/// The errors that a call of this kind can have on a disk that is full, broken or read-only, or in a process that has too much already.
fn errors(kind: Kind) -> &'static [Errno] {
    match kind {
        Kind::Open => &[Errno::EIO, Errno::EMFILE, Errno::ENOMEM, Errno::EDQUOT, Errno::ENOSPC, Errno::EROFS],
        Kind::Write => &[Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::ENOMEM],
        Kind::Name => &[Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::ENOMEM, Errno::EROFS],
        Kind::Remove | Kind::Meta => &[Errno::EIO, Errno::ENOMEM, Errno::EROFS],
        Kind::Sync => &[Errno::EIO, Errno::ENOSPC, Errno::EDQUOT],
        Kind::Say => &[],
    }
}

/// How many passes felt the fault: a sweep whose faults hurt nobody proves nothing.
#[derive(Default)]
pub(crate) struct Hurt(AtomicUsize);

impl Hurt {
    pub(crate) fn count(&self, ran: &Ran) {
        self.0.fetch_add(usize::from(ran.code != 2), Ordering::Relaxed);
    }

    pub(crate) fn assert_some(&self) {
        let hurt = self.0.load(Ordering::Relaxed);
        eprintln!("  {hurt} of these passes did not converge before the cause was gone");
        assert!(hurt > 0, "the faults hurt nobody");
    }
}

/// What a pass may end with that met trouble which will go away: never 78, for nobody has to look.
pub(crate) fn ended_well(end: End, ran: &Ran) -> Result<(), String> {
    let silent = ran.is_bad() && ran.outcome().is_empty() && ran.err.trim().is_empty();
    match end {
        End::Exited(0..=4 | 75) if !silent && !ran.err.contains("panicked") => Ok(()),
        _ => Err(format!("the pass ended with {end:?}: {ran}")),
    }
}

fn faults(scene: &Scene) -> Vec<Fault> {
    let host = scene.copy("counting");
    let mut faults = Vec::new();
    host.traced(|place, call| {
        let text = call.to_string().replace(&host.root.display().to_string(), "");
        for errno in errors(call.kind) {
            faults.push(Fault { place, errno: *errno, lasting: false, call: text.clone() });
        }
        for errno in [Errno::EIO, Errno::EROFS, Errno::ENOSPC] {
            faults.push(Fault { place, errno, lasting: true, call: text.clone() });
        }
        Verdict::Go
    });
    host.forget();
    faults
}

#[test]
fn a_call_that_fails_anywhere_ends_in_a_report_and_the_next_pass_finishes() {
    let scene = Scene::new();
    let cases = pick(faults(&scene), 24);
    let hurt = Hurt::default();
    sweep("fault sweep", &cases, |fault| {
        let host = scene.copy(&format!("fault-{}-{:?}-{}", fault.place, fault.errno, fault.lasting));
        let (end, ran) = host.traced(|place, call| {
            let due = place == fault.place || (fault.lasting && place > fault.place);
            if due && errors(call.kind).contains(&fault.errno) { Verdict::Fail(fault.errno) } else { Verdict::Go }
        });
        hurt.count(&ran);
        ended_well(end, &ran)?;
        let reason = std::io::Error::from(fault.errno).to_string();
        if ran.is_bad() && !format!("{}{}", ran.out, ran.err).contains(&reason) {
            return Err(format!("it does not say what the system said ({reason}): {ran}"));
        }
        scene.is_whole(&host, true)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
    hurt.assert_some();
}

#[test]
fn a_process_with_few_handles_ends_in_a_report_and_the_next_pass_finishes() {
    let scene = Scene::new();
    // With fewer the asynchronous runtime panics as it starts, before the agent has looked at anything.
    let handles: Vec<usize> = (8..=40).collect();
    let hurt = Hurt::default();
    sweep("handles (ulimit -n)", &pick(handles, 6), |handles| {
        let host = scene.copy(&format!("handles-{handles}"));
        let (end, ran) = host.limited(&format!("-n {handles}"));
        hurt.count(&ran);
        ended_well(end, &ran)?;
        scene.is_whole(&host, true)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
    hurt.assert_some();
}

//! SIGKILL before each system call that changes something, in a pass and in the pass that recovers from it.

use trimtab_tests::sweep::{self, sweep};
use trimtab_tests::trace::{End, Verdict};

use crate::scene::Scene;

/// The places of a pass that nobody disturbs.
pub(crate) fn places(scene: &Scene) -> Vec<String> {
    let host = scene.copy("counting");
    let mut places = Vec::new();
    let (end, ran) = host.traced(|_, call| {
        places.push(call.to_string().replace(&host.root.display().to_string(), ""));
        Verdict::Go
    });
    assert_eq!(end, End::Exited(2), "{ran}");
    host.forget();
    assert!(places.len() > 60, "a change of a dozen paths has more places than {}: {places:#?}", places.len());
    places
}

#[test]
fn a_pass_that_is_killed_anywhere_leaves_each_file_old_or_new_and_the_next_one_finishes() {
    let scene = Scene::new();
    let total = places(&scene).len();
    sweep(&format!("kill sweep ({total} places in a pass)"), &sweep::spaced(total, 24), |place| {
        let host = scene.copy(&format!("kill-{place}"));
        host.killed_at(*place)?;
        scene.is_whole(&host, true)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
}

#[test]
fn a_recovery_that_is_killed_too_is_finished_by_the_one_after_it() {
    let scene = Scene::new();
    let total = places(&scene).len();
    let firsts = sweep::spaced(total, 5);
    let mut cases = Vec::new();
    for first in firsts.iter().step_by(if sweep::all() { 7 } else { 1 }) {
        let host = scene.copy("recovery");
        host.killed_at(*first).unwrap();
        let mut seconds = 0;
        host.traced(|at, _| {
            seconds = at;
            Verdict::Go
        });
        host.forget();
        let every = if sweep::all() { 5 } else { seconds.div_ceil(3).max(1) };
        cases.extend((1..=seconds).step_by(every).map(|second| Twice { first: *first, second }));
    }
    sweep("kill sweep of the recovery", &cases, |Twice { first, second }| {
        let host = scene.copy(&format!("twice-{first}-{second}"));
        host.killed_at(*first)?;
        host.killed_at(*second)?;
        scene.is_whole(&host, true)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
}

struct Twice {
    first: usize,
    second: usize,
}

impl std::fmt::Display for Twice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, then {}", self.first, self.second)
    }
}

//! Sweeps over the apply of one change: killed at every place, on a disk that fills up, with every system call failing in turn.
//!
//! The whole program on a sandbox folder, looked at through its command line and the files that it leaves. A sample runs with the other
//! tests; `tests/run sweep` (`TRIMTAB_SWEEP=all`) tries every place. The kill and fault sweeps run under ptrace, on x86-64 only;
//! those with disks of their own need root as well.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod faults;
mod full;
mod kill;
mod released;
mod scene;
mod tree;

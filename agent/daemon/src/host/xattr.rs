//! The extended attributes of a file.
//!
//! Guarantees: one system call for a file that has none; values leave this room as digests. Limits: a file system that knows none has none; more names
//! than the kernel lets a file have (64 KiB of them) are not possible.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;
use trimtab_model::digest::Digest;
use trimtab_model::xattr::{Xattrs, counts};

/// As large as the kernel lets a list of names or a value be.
const LARGEST: usize = 64 << 10;

/// Those that count. `buffer`: to be written over; made larger if need be.
pub(super) fn read(file: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<Xattrs> {
    if buffer.len() < LARGEST {
        buffer.resize(LARGEST, 0);
    }
    let length = match flistxattr(&file, &mut buffer[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Xattrs::new()),
        Ok(length) => length,
        Err(errno) => return Err(errno.into()),
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let names: Vec<String> = names.filter(|name| counts(name)).map(str::to_owned).collect();
    let mut all = Xattrs::new();
    for name in names {
        let length = fgetxattr(&file, name.as_str(), &mut buffer[..])?;
        all.insert(name, Digest::of(&buffer[..length]));
    }
    Ok(all)
}

//! fanotify's records, as `fanotify(7)` and the kernel's `uapi/linux/fanotify.h` lay them out.
//!
//! nix reads only the fixed part of an event; the directory and the name stand behind it. Guarantees: every length is checked against what was
//! read, whatever it says; what cannot be made sense of is left out.

use super::group::Key;

const METADATA: usize = 24;
const VERSION: u8 = 3;
const OVERFLOW: u64 = 0x4000;
/// `FAN_EVENT_INFO_TYPE_DFID_NAME` and, for events on a directory itself, `FAN_EVENT_INFO_TYPE_DFID`.
const DIRECTORY_AND_NAME: u8 = 2;
const DIRECTORY: u8 = 3;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The kernel's queue was full.
    Overflow,
    /// Something happened to a name in a directory.
    Name {
        key: Key,
        /// `.`: the directory itself.
        name: &'a str,
        /// `FAN_…`.
        mask: u64,
        /// `None`: a process outside of our PID namespace.
        pid: Option<u32>,
    },
}

/// The events in what one read gave.
pub(super) fn parse(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(u32_at(rest, 0)?).ok()?;
            if length < METADATA || rest.get(4) != Some(&VERSION) {
                return None;
            }
            let event = rest.get(..length)?;
            rest = &rest[length..];
            if let Some(record) = record(event) {
                return Some(record);
            }
        }
    })
}

fn record(event: &[u8]) -> Option<Record<'_>> {
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    if mask & OVERFLOW != 0 {
        return Some(Record::Overflow);
    }
    let pid = u32_at(event, 20).filter(|pid| *pid != 0);
    let mut infos = event.get(usize::from(u16_at(event, 6)?)..)?;
    // Header: type, padding, length in all. Then the file system's id (8), the handle's length (4) and type (4), the handle, the name.
    while infos.len() >= 4 {
        let info = infos.get(..usize::from(u16_at(infos, 2)?).max(4))?;
        infos = &infos[info.len()..];
        if !matches!(info[0], DIRECTORY_AND_NAME | DIRECTORY) {
            continue;
        }
        let fs = u32_at(info, 4)?;
        let end = 20_usize.checked_add(usize::try_from(u32_at(info, 12)?).ok()?)?;
        let key = Key { fs, kind: u32_at(info, 16)?.cast_signed(), handle: info.get(20..end)?.to_vec() };
        let name = info.get(end..)?.split(|byte| *byte == 0).next().unwrap_or_default();
        // A name that is no UTF-8 is none of ours, which are; in an exclusive directory the full look finds it.
        let name = if name.is_empty() { "." } else { std::str::from_utf8(name).unwrap_or("\u{fffd}") };
        return Some(Record::Name { key, name, mask, pid });
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, pid: u32, infos: &[u8]) -> Vec<u8> {
        let length = u32::try_from(METADATA + infos.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn info(kind: u8, name: &[u8]) -> Vec<u8> {
        let mut body: Vec<u8> = [7_u32, 9, 4, 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
        body.extend([0xaa, 0xbb, 0xcc, 0xdd]);
        body.extend(name);
        body.push(0);
        let length = u16::try_from(body.len() + 4).unwrap();
        let mut bytes = vec![kind, 0];
        bytes.extend(length.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn key() -> Key {
        Key { fs: 7, kind: 1, handle: vec![0xaa, 0xbb, 0xcc, 0xdd] }
    }

    #[test]
    fn events_are_read_with_their_directory_name_and_process() {
        let mut bytes = event(0x100, 42, &[info(10, b"x"), info(DIRECTORY_AND_NAME, b"motd\0\0")].concat());
        bytes.extend(event(OVERFLOW, 0, &[]));
        bytes.extend(event(4, 0, &info(DIRECTORY, b"")));
        let list: Vec<_> = parse(&bytes).collect();
        let wanted = [
            Record::Name { key: key(), name: "motd", mask: 0x100, pid: Some(42) },
            Record::Overflow,
            Record::Name { key: key(), name: ".", mask: 4, pid: None },
        ];
        assert_eq!(list, wanted);
    }

    #[test]
    fn lengths_that_lie_are_not_believed() {
        let good = event(0x100, 42, &info(DIRECTORY_AND_NAME, b"motd"));
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]).count(), 0, "{cut}");
        }
        // Every byte of every length, changed to anything.
        for at in (0..8).chain(24..44) {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = parse(&bad).count();
            }
        }
    }
}

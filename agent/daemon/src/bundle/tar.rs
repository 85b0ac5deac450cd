//! The little of tar that a bundle is made of: plain files with short names, one after the other.
//!
//! Format: POSIX ustar (pax(1), "ustar Interchange Format"). tar, and not a format of our own, so that `tar -tvf` and `tar -xf` open a bundle on any
//! machine; and only this little of it, for a general reader (links, sparse files, extensions) is much code between a stranger's stick and root.

use std::io::{self, Read, Write};

/// Header and padding.
pub(crate) const BLOCK: u64 = 512;
/// The longest name.
const MAX_NAME: usize = 100;
/// The largest file: eleven octal digits.
const MAX_SIZE: u64 = (1 << 33) - 1;

/// What a header says; a sentence if it is none that this reader takes. `None`: the end.
pub(super) fn read_header(from: &mut impl Read) -> io::Result<Result<Option<(String, u64)>, &'static str>> {
    let mut head = [0; 512];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err("it is cut short here")),
        other => other?,
    }
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Ok(None));
    }
    Ok(parse(&head).map(Some))
}

fn parse(head: &[u8; 512]) -> Result<(String, u64), &'static str> {
    if &head[257..263] != b"ustar\0" || &head[263..265] != b"00" {
        return Err("what stands here is no header of a tar file (ustar)");
    }
    if octal(&head[148..156]) != Some(checksum(head)) {
        return Err("the header here is damaged (its checksum)");
    }
    if head[156] != b'0' || head[345] != 0 || head[157] != 0 {
        return Err("what follows here is no plain file with a short name");
    }
    let name = head[..MAX_NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).ok().filter(|name| is_name(name)).ok_or("the name here is not one that a bundle has")?;
    let size = octal(&head[124..136]).ok_or("the size here is no number")?;
    Ok((name.to_owned(), size))
}

/// The next plain file of a tar file that another program wrote, with the few headers that all programs read alike: ustar's own and those of GNU tar, of files
/// and folders (which are passed over). `None`: the end.
pub(super) fn read_plain(from: &mut impl Read) -> io::Result<Result<Option<(String, u64)>, String>> {
    loop {
        let mut head = [0; 512];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err("it is cut short".to_owned())),
            other => other?,
        }
        if head.iter().all(|byte| *byte == 0) {
            return Ok(Ok(None));
        }
        match plain(&head) {
            Ok(Some(found)) => return Ok(Ok(Some(found))),
            Ok(None) => {}
            Err(why) => return Ok(Err(why)),
        }
    }
}

/// `None`: a folder.
fn plain(head: &[u8; 512]) -> Result<Option<(String, u64)>, String> {
    if &head[257..262] != b"ustar" {
        return Err("it is no tar file: what stands there is no header of one".to_owned());
    }
    if octal(&head[148..156]) != Some(checksum(head)) {
        return Err("a header of it is damaged (its checksum)".to_owned());
    }
    let name = head[..MAX_NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let name =
        std::str::from_utf8(name).ok().filter(|_| head[345] == 0).ok_or("a name in it is longer than 100 bytes, or no text")?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let size = octal(&head[124..136]).filter(|size| *size <= MAX_SIZE).ok_or("a size in it is no number, or too large")?;
    match head[156] {
        b'0' | 0 => Ok(Some((name.to_owned(), size))),
        b'5' if size == 0 => Ok(None),
        _ => Err(format!("{name:?} in it is neither a plain file nor a folder")),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b))
        && !name.starts_with('/')
        && !name.contains("..")
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.split(|byte| *byte == 0 || *byte == b' ').next()?;
    if digits.is_empty() || !digits.iter().all(|b| (b'0'..=b'7').contains(b)) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

fn checksum(head: &[u8; 512]) -> u64 {
    head.iter().enumerate().map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum()
}

/// How many bytes follow a content up to the next header.
pub(super) fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// Writes a file: always the same bytes for the same content.
pub(crate) fn write(to: &mut impl Write, name: &str, size: u64, content: &mut impl Read) -> io::Result<()> {
    let mut head = [0; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    let mut put = |at: usize, text: String| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, "0000644\0".to_owned());
    put(108, "0000000\0".to_owned());
    put(116, "0000000\0".to_owned());
    put(124, format!("{size:011o}\0"));
    put(136, format!("{:011o}\0", 0));
    put(156, "0".to_owned());
    put(257, "ustar\0".to_owned());
    put(263, "00".to_owned());
    let sum = checksum(&head);
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    to.write_all(&head)?;
    if io::copy(&mut content.take(size), to)? != size {
        return Err(io::Error::other(format!("{name} became shorter while it was read")));
    }
    to.write_all(&vec![0; usize::try_from(padding(size)).unwrap_or(0)])
}

/// Writes the end.
pub(crate) fn finish(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 1024])
}

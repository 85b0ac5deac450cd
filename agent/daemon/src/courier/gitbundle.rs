//! A plain `git bundle` as a source: its pack becomes a small repository in the cache, which is then read as one on this machine is.
//!
//! Format: gitformat-bundle(5), versions 2 and 3. Guarantees: the header is bounded and read strictly before a byte of the pack is; the pack is taken
//! apart by the same bounded code as one from a server; the same file is taken apart once, and once more where what it was made into cannot be
//! read (a power cut, a worn flash). Limits: a bundle must be whole (no prerequisites, no
//! filter), for what it leans on could be anything.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use gix_hash::{Kind as Hash, ObjectId};

use super::CourierError;
use super::meter::Meter;
use super::pack;

/// The longest line of a header.
const MAX_LINE: u64 = 4 << 10;
/// The most lines.
const MAX_LINES: usize = 4096;
/// The most objects of a pack.
const MAX_OBJECTS: u32 = 2_000_000;
/// The most bytes of one object.
const MAX_OBJECT: u64 = 64 << 20;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    hash: Hash,
    references: Vec<(ObjectId, String)>,
}

/// Whether a file begins as a bundle does. A folder does not.
pub(super) fn is_bundle(path: &Path) -> bool {
    let mut begin = [0; 16];
    let is_read = path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok();
    is_read && matches!(&begin, b"# v2 git bundle\n" | b"# v3 git bundle\n")
}

/// The repository that a bundle was made into, and whether that was done now.
pub(super) struct Made {
    pub(super) folder: PathBuf,
    pub(super) anew: bool,
}

/// The repository that a bundle was made into; made now if it is another than last time, or if `anew` says that what was made is no good.
///
/// The mark that tells which bundle it was comes after all the rest is on the disk: a power cut leaves a pack that is whole, or no mark. What is small is
/// held against the bundle's header each time.
pub(super) fn repository(bundle: &Path, cache: &Path, limit: u64, anew: bool, meter: &Meter) -> Result<Made, CourierError> {
    let unreadable = |source: io::Error| CourierError::File { path: bundle.to_owned(), source };
    let file = File::open(bundle).map_err(unreadable)?;
    let seen = file.metadata().map_err(unreadable)?;
    if seen.len() > limit {
        return Err(CourierError::Bound(format!(
            "{} has {} bytes, more than the {limit} that are allowed here (max-bytes)",
            bundle.display(),
            seen.len()
        )));
    }
    let mut from = BufReader::new(file);
    let header = header(&mut from)
        .map_err(|why| CourierError::Bound(format!("{} is no bundle that can be used: {why}", bundle.display())))?;
    let of = format!("{} {} {} {}.{}", seen.dev(), seen.ino(), seen.len(), seen.mtime(), seen.mtime_nsec());
    let folder = cache.join("bundle.git");
    let failed = |source| CourierError::Cache { path: folder.clone(), source };
    let mark = folder.join("made-from");
    if !anew && fs::read_to_string(&mark).is_ok_and(|made| made == of) {
        describe(&folder, &header).map_err(failed)?;
        return Ok(Made { folder, anew: false });
    }
    match fs::remove_dir_all(&folder) {
        // Not a folder of ours: a damaged cache must not stop polling for ever.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&folder).map_err(failed)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let objects = folder.join("objects/pack");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&objects).map_err(failed)?;
    pack::index(&mut from, &objects, header.hash, MAX_OBJECTS, MAX_OBJECT, meter)?;
    let settle = || -> io::Result<()> {
        describe(&folder, &header)?;
        sync(&folder)?;
        fs::write(&mark, of)?;
        File::open(&mark)?.sync_all()
    };
    settle().map_err(failed)?;
    Ok(Made { folder, anew: true })
}

/// What a repository has beside its objects, as the header says it. Written only where it is not there already.
fn describe(folder: &Path, header: &Header) -> io::Result<()> {
    fs::create_dir_all(folder.join("refs"))?;
    let packed: Vec<String> = header.references.iter().map(|(id, name)| format!("{id} {name}\n")).collect();
    let config = match header.hash {
        Hash::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        _ => "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n",
    };
    for (name, text) in [("packed-refs", packed.concat().as_str()), ("config", config), ("HEAD", "ref: refs/heads/main\n")] {
        let path = folder.join(name);
        if !fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            fs::write(path, text)?;
        }
    }
    Ok(())
}

/// Waits until a folder and all that is in it are on the disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Reads a header up to the pack; a sentence if it is none.
pub(super) fn header(from: &mut impl BufRead) -> Result<Header, String> {
    let mut lines = 0;
    let mut line = || -> Result<String, String> {
        lines += 1;
        let mut bytes = Vec::new();
        from.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).map_err(|_| "its header is not UTF-8")?;
        let text = text.strip_suffix('\n').ok_or("its header is cut short, or has a line of more than 4 KiB")?.to_owned();
        if lines > MAX_LINES { Err(format!("its header has more than {MAX_LINES} lines")) } else { Ok(text) }
    };
    let mut hash = Hash::Sha1;
    let version3 = match line()?.as_str() {
        "# v2 git bundle" => false,
        "# v3 git bundle" => true,
        other => return Err(format!("it begins with {:?}", other.chars().take(40).collect::<String>())),
    };
    let mut references: Vec<(ObjectId, String)> = Vec::new();
    loop {
        let text = line()?;
        if text.is_empty() {
            break;
        }
        if let Some(capability) = text.strip_prefix('@').filter(|_| version3) {
            hash = match capability {
                "object-format=sha1" => Hash::Sha1,
                "object-format=sha256" => Hash::Sha256,
                other => return Err(format!("it wants {:?}, which is not known here", other.chars().take(80).collect::<String>())),
            };
        } else if text.starts_with('-') {
            return Err("it leans on commits that it does not hold; make it whole, with `git bundle create FILE BRANCH`".to_owned());
        } else {
            let (id, name) = text.split_once(' ').ok_or("a line of its header is neither a reference nor a prerequisite")?;
            let id =
                ObjectId::from_hex(id.as_bytes()).ok().filter(|id| id.kind() == hash).ok_or("an id in its header is not one")?;
            let is_name = name == "HEAD" || name.starts_with("refs/") && gix::validate::reference::name(name.into()).is_ok();
            if !is_name {
                return Err(format!("it has a reference of the name {:?}", name.chars().take(80).collect::<String>()));
            }
            if references.iter().any(|(_, known)| known == name) {
                return Err(format!("it names {name} twice"));
            }
            references.push((id, name.to_owned()));
        }
    }
    // HEAD is what it points to, and only a convenience of clones.
    references.retain(|(_, name)| name != "HEAD");
    references.sort_by(|one, other| one.1.cmp(&other.1));
    if references.is_empty() { Err("it names no reference".to_owned()) } else { Ok(Header { hash, references }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_strictly() {
        let id = "1".repeat(40);
        let good = format!("# v2 git bundle\n{id} refs/heads/main\n{id} HEAD\n\nPACK");
        let mut from = good.as_bytes();
        let read = header(&mut from).unwrap();
        assert_eq!((read.references.len(), read.hash, from), (1, Hash::Sha1, b"PACK".as_slice()));
        let sha256 = format!("# v3 git bundle\n@object-format=sha256\n{} refs/trimtab/production\n\n", "2".repeat(64));
        assert_eq!(header(&mut sha256.as_bytes()).unwrap().hash, Hash::Sha256);
        let long = format!("# v2 git bundle\n{id} refs/heads/{}\n\n", "x".repeat(5000));
        let many =
            format!("# v2 git bundle\n{}\n", (0..5000).map(|n| format!("{id} refs/heads/{n}\n")).collect::<Vec<_>>().concat());
        for bad in [
            "",
            "# v4 git bundle\n\n",
            "# v2 git bundle\n",
            "# v2 git bundle\n\n",
            &format!("# v2 git bundle\n-{id} base\n{id} refs/heads/main\n\n"),
            "# v2 git bundle\nabc refs/heads/main\n\n",
            &format!("# v2 git bundle\n{id} refs/heads/../x\n\n"),
            &format!("# v2 git bundle\n{id} config\n\n"),
            &format!("# v2 git bundle\n{id} refs/heads/a\n{id} refs/heads/a\n\n"),
            &format!("# v3 git bundle\n@filter=blob:none\n{id} refs/heads/a\n\n"),
            &format!("# v3 git bundle\n@object-format=sha256\n{id} refs/heads/a\n\n"),
            &format!("# v2 git bundle\n{id} refs/heads/a"),
            &long,
            &many,
        ] {
            assert!(header(&mut bad.as_bytes()).is_err(), "{}", bad.chars().take(100).collect::<String>());
        }
    }
}

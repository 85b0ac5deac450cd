//! A disk as a value: its blocks, the log of what was written to it, and the disks that a power cut can leave.
//!
//! Guarantee: an [`Image`] is cheap to copy (blocks are shared), and two images with the same content have the same [`Image::key`].
//! The rule of the cut: what was written before the last flush that was answered is on the disk; of what was written after it any part may
//! be, in any order. Per block one version counts, so that leaving writes out covers every order.
//! Limit: a block of [`BLOCK`] bytes is written whole or not at all, as on a disk with sectors of that size.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What is written whole or not at all, in bytes.
pub(crate) const BLOCK: usize = 4096;

type Block = [u8; BLOCK];

/// The content of a disk at one moment. `None`: a block of zeros.
#[derive(Clone)]
pub(crate) struct Image {
    blocks: Vec<Option<Arc<Block>>>,
    key: u64,
}

impl Image {
    /// Reads a disk from a file, whose size is a whole number of blocks.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let count = usize::try_from(file.metadata()?.len()).expect("because the disk is small") / BLOCK;
        let mut image = Self { blocks: vec![None; count], key: 0 };
        let mut block = [0; BLOCK];
        for at in 0..count {
            file.read_exact(&mut block)?;
            image.set(at, block);
        }
        Ok(image)
    }

    /// Writes it to a new file with holes where nothing is.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size())?;
        for (at, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block {
                file.write_all_at(&**block, (at * BLOCK) as u64)?;
            }
        }
        Ok(())
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.blocks.len() * BLOCK) as u64
    }

    /// The same for the same content.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Up to `size` bytes from `offset`; less at the end.
    pub(crate) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let end = self.size().min(offset + size as u64);
        let mut bytes = Vec::with_capacity(size);
        let mut at = offset;
        while at < end {
            let (block, inside) = place(at);
            let take = (BLOCK - inside).min(usize::try_from(end - at).expect("because it is at most a request"));
            match &self.blocks[block] {
                Some(content) => bytes.extend_from_slice(&content[inside..inside + take]),
                None => bytes.resize(bytes.len() + take, 0),
            }
            at += take as u64;
        }
        bytes
    }

    /// Writes bytes at an offset; what lies beyond the end is an error.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.size() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for piece in pieces(offset, bytes) {
            let (block, inside) = place(piece.0);
            let mut content = self.blocks[block].as_ref().map_or([0; BLOCK], |known| **known);
            content[inside..inside + piece.1.len()].copy_from_slice(piece.1);
            self.set(block, content);
        }
        Ok(())
    }

    fn set(&mut self, at: usize, content: Block) {
        let content = content.iter().any(|byte| *byte != 0).then(|| Arc::new(content));
        // The key is a sum over the blocks, so that a write changes it by what the block was and is.
        self.key ^= summand(at, self.blocks[at].as_deref()) ^ summand(at, content.as_deref());
        self.blocks[at] = content;
    }
}

fn summand(at: usize, block: Option<&Block>) -> u64 {
    let Some(block) = block else { return 0 };
    let mut hasher = DefaultHasher::new();
    (at, block).hash(&mut hasher);
    hasher.finish()
}

fn place(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("because the disk is small");
    (offset / BLOCK, offset % BLOCK)
}

/// A write, cut where one block ends and the next begins.
pub(crate) fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let begin = offset + at as u64;
        let take = (BLOCK - place(begin).1).min(rest.len());
        at += take;
        Some((begin, &rest[..take]))
    })
}

/// What the disk was asked to do.
#[derive(Clone)]
pub(crate) enum Event {
    /// To write these bytes at this offset; they may lie in its cache until it is flushed.
    Write(u64, Arc<[u8]>),
    /// To put on the platter all that was written before.
    Flush,
}

/// One disk that a power cut can leave.
pub(crate) struct Cut {
    /// How many events of the log had happened.
    pub(crate) at: usize,
    /// For a person: what of them reached the disk.
    pub(crate) what: String,
    /// The disk.
    pub(crate) image: Image,
}

/// A source of chance that gives the same each time for the same seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).expect("because it is below a usize")
    }
}

/// Walks through every disk that a cut can leave and hands each to `take`: after each flush nothing of what followed, each
/// prefix of it, and `random` random parts of it.
pub(crate) fn cuts(base: &Image, log: &[Event], random: usize, dice: &mut Dice, take: &mut dyn FnMut(Cut)) {
    let (mut safe, mut from) = (base.clone(), 0);
    while from <= log.len() {
        let until = log[from..].iter().position(|event| matches!(event, Event::Flush)).map_or(log.len(), |next| from + next);
        let writes = &log[from..until];
        let mut image = safe.clone();
        take(Cut { at: from, what: format!("all before event {from}"), image: image.clone() });
        for (done, event) in writes.iter().enumerate() {
            apply(&mut image, event);
            let what = format!("all before event {from}, and the {} after it", done + 1);
            take(Cut { at: from + done + 1, what, image: image.clone() });
        }
        // With one write there is nothing between none and all but its blocks.
        if !writes.is_empty() {
            for number in 0..random {
                take(part(&safe, writes, from, number % 2 == 0, dice));
            }
        }
        safe = image;
        from = until + 1;
    }
}

/// Some writes of an unfinished epoch; `torn`: some of their blocks.
fn part(safe: &Image, writes: &[Event], from: usize, torn: bool, dice: &mut Dice) -> Cut {
    let happened = 1 + dice.below(writes.len());
    let of_ten = 1 + dice.below(9);
    let (mut image, mut taken, mut all) = (safe.clone(), 0, 0);
    for event in &writes[..happened] {
        let Event::Write(offset, bytes) = event else { continue };
        let whole = [(*offset, &**bytes)];
        let parts: Vec<(u64, &[u8])> = if torn { pieces(*offset, bytes).collect() } else { whole.to_vec() };
        for (offset, bytes) in parts {
            all += 1;
            if dice.below(10) < of_ten {
                taken += 1;
                image.write(offset, bytes).expect("because the disk took it once");
            }
        }
    }
    let unit = if torn { "blocks" } else { "writes" };
    let what = format!("all before event {from}, and {taken} of {all} {unit} of the {happened} after it");
    Cut { at: from + happened, what, image }
}

fn apply(image: &mut Image, event: &Event) {
    if let Event::Write(offset, bytes) = event {
        image.write(*offset, bytes).expect("because the disk took it once");
    }
}

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

/// One block that is not all zeros, and its share of [`Image::key`].
#[derive(Debug)]
pub(crate) struct Block {
    content: [u8; BLOCK],
    share: u64,
}

/// A block's content; `None`: zeros.
pub(crate) type Content = Option<Arc<Block>>;

fn content(at: usize, content: &[u8; BLOCK]) -> Content {
    content.iter().any(|byte| *byte != 0).then(|| {
        let mut hasher = DefaultHasher::new();
        (at, content).hash(&mut hasher);
        Arc::new(Block { content: *content, share: hasher.finish() })
    })
}

/// The content of a disk at one moment.
#[derive(Clone)]
pub(crate) struct Image {
    blocks: Vec<Content>,
    // A sum over the blocks, so that a write changes it by what the block was and is.
    key: u64,
}

impl Image {
    /// Reads a disk from a file, whose size is a whole number of blocks.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let count = usize::try_from(file.metadata()?.len()).expect("because the disk is small") / BLOCK;
        let mut image = Self { blocks: vec![None; count], key: 0 };
        let mut bytes = [0; BLOCK];
        for at in 0..count {
            file.read_exact(&mut bytes)?;
            image.set(at, content(at, &bytes));
        }
        Ok(image)
    }

    /// Writes it to a new file with holes where nothing is.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size())?;
        for (at, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block {
                file.write_all_at(&block.content, (at * BLOCK) as u64)?;
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
                Some(block) => bytes.extend_from_slice(&block.content[inside..inside + take]),
                None => bytes.resize(bytes.len() + take, 0),
            }
            at += take as u64;
        }
        bytes
    }

    /// What its blocks are after a write of these bytes; `None`: it goes beyond the end.
    pub(crate) fn after(&self, offset: u64, bytes: &[u8]) -> Option<Vec<(usize, Content)>> {
        if offset + bytes.len() as u64 > self.size() {
            return None;
        }
        let mut blocks = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let (at, inside) = place(offset + done as u64);
            let take = (BLOCK - inside).min(bytes.len() - done);
            let mut new = self.blocks[at].as_ref().map_or([0; BLOCK], |known| known.content);
            new[inside..inside + take].copy_from_slice(&bytes[done..done + take]);
            blocks.push((at, content(at, &new)));
            done += take;
        }
        Some(blocks)
    }

    /// Exchanges one block; what it was.
    pub(crate) fn set(&mut self, at: usize, new: Content) -> Content {
        let share = |content: &Content| content.as_ref().map_or(0, |block| block.share);
        self.key ^= share(&self.blocks[at]) ^ share(&new);
        std::mem::replace(&mut self.blocks[at], new)
    }
}

fn place(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("because the disk is small");
    (offset / BLOCK, offset % BLOCK)
}

/// What the disk was asked to do.
#[derive(Clone)]
pub(crate) enum Event {
    /// To write these blocks; they may lie in its cache until it is flushed.
    Write(Vec<(usize, Content)>),
    /// To put on the platter all that was written before.
    Flush,
}

/// One disk that a power cut can leave.
pub(crate) struct Cut<'a> {
    /// How many events of the log had happened.
    pub(crate) at: usize,
    /// For a person: what of them reached the disk.
    pub(crate) what: String,
    /// The disk.
    pub(crate) image: &'a Image,
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
pub(crate) fn cuts(base: &Image, log: &[Event], random: usize, dice: &mut Dice, take: &mut dyn FnMut(&Cut<'_>)) {
    let (mut image, mut from) = (base.clone(), 0);
    while from <= log.len() {
        let until = log[from..].iter().position(|event| matches!(event, Event::Flush)).map_or(log.len(), |next| from + next);
        let writes = &log[from..until];
        take(&Cut { at: from, what: format!("all before event {from}"), image: &image });
        for number in 0..random {
            part(&mut image, writes, from, number % 2 == 0, dice, take);
        }
        for (done, event) in writes.iter().enumerate() {
            let Event::Write(blocks) = event else { continue };
            for (at, new) in blocks {
                image.set(*at, new.clone());
            }
            let what = format!("all before event {from}, and the {} after it", done + 1);
            take(&Cut { at: from + done + 1, what, image: &image });
        }
        from = until + 1;
    }
}

/// Some of the writes since a flush; `torn`: some of their blocks. The image is as it was afterwards.
fn part(image: &mut Image, writes: &[Event], from: usize, torn: bool, dice: &mut Dice, take: &mut dyn FnMut(&Cut<'_>)) {
    if writes.is_empty() {
        return;
    }
    let happened = 1 + dice.below(writes.len());
    let of_ten = 1 + dice.below(9);
    let (mut undo, mut taken, mut all) = (Vec::new(), 0, 0);
    for event in &writes[..happened] {
        let Event::Write(blocks) = event else { continue };
        for some in blocks.chunks(if torn { 1 } else { blocks.len() }) {
            all += 1;
            if dice.below(10) < of_ten {
                taken += 1;
                undo.extend(some.iter().map(|(at, new)| (*at, image.set(*at, new.clone()))));
            }
        }
    }
    let unit = if torn { "blocks" } else { "writes" };
    let what = format!("all before event {from}, and {taken} of {all} {unit} of the {happened} after it");
    take(&Cut { at: from + happened, what, image });
    for (at, old) in undo.into_iter().rev() {
        image.set(at, old);
    }
}

#[test]
fn a_cut_keeps_what_was_flushed_and_any_part_of_the_rest() {
    use std::collections::BTreeSet;
    let mut image = Image { blocks: vec![None; 4], key: 0 };
    let mut log = Vec::new();
    // Block 0 is flushed; of the blocks 1 and 2, and of the second version of block 0, anything may be there.
    for (offset, bytes) in [(0, b"a"), (4096, b"b"), (8192, b"c"), (0, b"d")] {
        let blocks = image.after(offset, bytes).unwrap();
        for (at, new) in &blocks {
            image.set(*at, new.clone());
        }
        log.push(Event::Write(blocks));
        if offset == 0 && bytes == b"a" {
            log.push(Event::Flush);
        }
    }
    let mut seen = BTreeSet::new();
    let base = Image { blocks: vec![None; 4], key: 0 };
    cuts(&base, &log, 200, &mut Dice(1), &mut |cut| {
        let letters: String =
            (0..3).map(|at| char::from(cut.image.read(at * 4096, 1)[0])).map(|c| if c == '\0' { '-' } else { c }).collect();
        seen.insert((cut.at >= 2, letters));
    });
    let of =
        |flushed: bool| seen.iter().filter(|(after, _)| *after == flushed).map(|(_, letters)| letters.as_str()).collect::<Vec<_>>();
    assert_eq!(of(false), ["---", "a--"]);
    assert_eq!(of(true), ["a--", "a-c", "ab-", "abc", "d--", "d-c", "db-", "dbc"]);
    assert!(base.after(4 * 4096, b"x").is_none(), "beyond the end");
    let blocks = base.after(4095, b"xy").unwrap();
    assert_eq!(blocks.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1]);
}

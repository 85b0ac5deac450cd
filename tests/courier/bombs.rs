//! P1 to P6: packs that are small on the wire and huge in memory or time, and packs that lie, against a courier that is a process of its own.
//! Each ends within a bound of memory that is read from outside (its peak, from /proc), and within a time.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trimtab::courier::{Class, Client};
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::server::{Fault, GitServer, Tls};
use trimtab_tests::trimtab_binary;

use crate::{Fleet, PATIENCE, git, id};

/// The most memory that a courier may ever have used here.
const MEMORY: u64 = 80 << 20;

/// The most time that one of these may take in all, on a machine that does other things as well.
const TIME: Duration = Duration::from_secs(30);

/// The peak of a courier's memory so far.
fn peak(client: &Client) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", client.child_id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// zlib data of `size` zeros: one literal, then runs of 258 in fixed Huffman codes, 13 bits each.
fn zipped_zeros(size: u64) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (vec![0x78, 0x01], 0u32, 0u32);
    let mut put = |value: u32, length: u32, out: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            out.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            count -= 8;
        }
    };
    // Huffman codes go most significant bit first, everything else least.
    let reversed = |code: u32, length: u32| code.reverse_bits() >> (32 - length);
    put(0b011, 3, &mut out);
    put(reversed(0b0011_0000, 8), 8, &mut out);
    let runs = (size - 1) / 258;
    for _ in 0..16 + runs % 8 {
        put(reversed(0b1100_0101, 8), 8, &mut out);
        put(0, 5, &mut out);
    }
    // Eight of them are thirteen bytes, again and again.
    let period = out[out.len() - 13..].to_vec();
    for _ in 0..(runs - 16) / 8 {
        out.extend_from_slice(&period);
    }
    for _ in 0..(size - 1) % 258 {
        put(reversed(0b0011_0000, 8), 8, &mut out);
    }
    put(0, 7, &mut out);
    put(0, 7, &mut out);
    let adler = (u32::try_from(size % 65521).unwrap() << 16) | 1;
    out.extend(adler.to_be_bytes());
    out
}

/// zlib data with one stored block.
fn stored(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap();
    let (mut a, mut b) = (1u32, 0u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    [&[0x78, 0x01, 0x01][..], &size.to_le_bytes(), &(!size).to_le_bytes(), content, &((b << 16) | a).to_be_bytes()].concat()
}

/// A pack entry's head: type and size.
fn head(kind: u8, mut size: u64) -> Vec<u8> {
    let mut byte = (kind << 4) | u8::try_from(size & 15).unwrap();
    size >>= 4;
    let mut out = Vec::new();
    while size > 0 {
        out.push(byte | 0x80);
        byte = u8::try_from(size & 127).unwrap();
        size >>= 7;
    }
    out.push(byte);
    out
}

fn varint(mut size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while size > 127 {
        out.push(0x80 | u8::try_from(size & 127).unwrap());
        size >>= 7;
    }
    out.push(u8::try_from(size).unwrap());
    out
}

/// A blob of a mebibyte and deltas that each copy it `times` over. Every delta differs in one byte at the end.
fn delta_bomb(deltas: u32, times: usize) -> Vec<u8> {
    let base = 1u64 << 20;
    let mut entries = [head(3, base), zipped_zeros(base)].concat();
    let base_at = 0;
    for n in 0..deltas {
        let mut delta = [varint(base), varint(base * times as u64 + 4)].concat();
        for _ in 0..times {
            delta.extend([0x80 | 0x40, 0x10]);
        }
        delta.push(4);
        delta.extend(n.to_le_bytes());
        let distance = entries.len() as u64 - base_at;
        entries.extend([head(6, delta.len() as u64), behind(distance), stored(&delta)].concat());
    }
    pack(deltas + 1, &entries)
}

/// How far before a delta its base stands.
fn behind(mut distance: u64) -> Vec<u8> {
    let mut offset = vec![u8::try_from(distance & 127).unwrap()];
    while distance > 127 {
        distance = (distance >> 7) - 1;
        offset.insert(0, 0x80 | u8::try_from(distance & 127).unwrap());
    }
    offset
}

/// Deltas, each on the one before it: `deep` of them in a row.
fn delta_chain(deep: u32) -> Vec<u8> {
    let mut entries = [head(3, 4), stored(&[0; 4])].concat();
    let mut last = 0;
    for n in 0..deep {
        // All four bytes are new, so that no two objects are the same.
        let delta = [varint(4), varint(4), vec![4], n.wrapping_add(1).to_le_bytes().to_vec()].concat();
        let at = entries.len() as u64;
        entries.extend([head(6, delta.len() as u64), behind(at - last), stored(&delta)].concat());
        last = at;
    }
    pack(deep + 1, &entries)
}

fn pack(count: u32, entries: &[u8]) -> Vec<u8> {
    let mut pack = [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes(), entries].concat();
    let sum = sha1(&pack);
    pack.extend(sum);
    pack
}

pub(crate) fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut program = Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = program.wait_with_output().unwrap().stdout;
    let hex = std::str::from_utf8(&output[..40]).unwrap();
    std::array::from_fn(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap())
}

/// The answer to a fetch command.
fn answer(pack: &[u8]) -> Vec<u8> {
    let mut out = b"000dpackfile\n".to_vec();
    for part in pack.chunks(60_000) {
        out.extend(format!("{:04x}\x01", part.len() + 5).bytes());
        out.extend(part);
    }
    out.extend(b"0000");
    out
}

pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) server: GitServer,
    pub(crate) client: Client,
    begun: Instant,
}

impl Scene {
    pub(crate) fn new(settings: &str) -> Self {
        Self::with_patience(settings, PATIENCE)
    }

    /// With an agent that waits no longer than this.
    pub(crate) fn with_patience(settings: &str, patience: Duration) -> Self {
        let fleet = Fleet::new();
        fleet.commit(&[("file", "x")]);
        let server = GitServer::start(fleet.root(), Tls::Off);
        let config = fleet.root().join("agent.toml");
        let text = format!("[source]\nurl = '{}/fleet/.git'\nallow-http = true\n{settings}\n[other]\nkey = 1\n", server.url());
        fs::write(&config, text).unwrap();
        let client = Client::spawn(&trimtab_binary(), &config, &fleet.root().join("cache"), patience).unwrap();
        Self { fleet, server, client, begun: Instant::now() }
    }

    /// The courier survived, used little memory and time, left nothing lying about, and works.
    pub(crate) fn survived(mut self) {
        let peak = peak(&self.client);
        println!("peak: {} KiB, {:?} in all", peak >> 10, self.begun.elapsed());
        assert!(peak < MEMORY, "{peak}");
        assert!(self.begun.elapsed() < TIME, "{:?}", self.begun.elapsed());
        assert!(fs::read_dir(self.fleet.root().join("cache/tmp")).unwrap().next().is_none());
        self.server.set_fault(Fault::None);
        let tip = self.fleet.id("HEAD");
        self.client.advance(&tip, None).unwrap();
        let child = self.client.child_id().unwrap();
        drop(self.client);
        assert!(!fs::exists(format!("/proc/{child}")).unwrap(), "the courier was not reaped");
    }
}

#[test]
fn p1_a_blob_of_endless_zeros_is_refused() {
    let mut scene = Scene::new("");
    // A gibibyte is refused the same way, only this test would take four times as long.
    let size = 1 << 28;
    let bomb = pack(1, &[head(3, size), zipped_zeros(size)].concat());
    scene.server.set_fault(Fault::Canned(answer(&bomb)));
    let start = Instant::now();
    let blob = id(&"3".repeat(40));
    let error = scene.client.objects(ObjectKind::Blob, &[blob], 16 << 20).unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert!(matches!(error, ObjectError::TooLarge { .. }), "{error}");
    scene.survived();
}

#[test]
fn a_harmless_pack_made_the_same_way_is_taken() {
    // Or the refusals of the others could have any reason.
    let mut scene = Scene::new("");
    scene.server.set_fault(Fault::Canned(answer(&delta_bomb(3, 2))));
    let error = scene.client.advance(&id(&"3".repeat(40)), Some(&id(&"4".repeat(40)))).unwrap_err();
    assert!(error.to_string().contains("has no object 3333"), "{error}");
    scene.survived();
}

#[test]
fn p2_deltas_that_unpack_to_much_are_refused() {
    let mut scene = Scene::new("");
    scene.server.set_fault(Fault::Canned(answer(&delta_bomb(64, 200))));
    let start = Instant::now();
    let error = scene.client.advance(&id(&"3".repeat(40)), Some(&id(&"4".repeat(40)))).unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert_eq!(error.class(), Class::Hold, "{error}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    // Many more than were asked for are refused by their number.
    let error = scene.client.objects(ObjectKind::Blob, &[id(&"3".repeat(40))], 16 << 20).unwrap_err();
    assert!(matches!(error, ObjectError::TooLarge { .. }), "{error}");
    scene.survived();
}

#[test]
fn p3_deltas_that_burn_time_end_at_the_total_timeout() {
    let mut scene = Scene::new("total-timeout = '2s'");
    scene.server.set_fault(Fault::Canned(answer(&delta_bomb(15_000, 8))));
    let start = Instant::now();
    let error = scene.client.advance(&id(&"3".repeat(40)), Some(&id(&"4".repeat(40)))).unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert!(error.to_string().contains("total-timeout") && error.class() == Class::Retry, "{error}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    scene.survived();
}

#[test]
fn p4_a_chain_of_deltas_is_no_recursion() {
    let mut scene = Scene::new("");
    // Each becomes a file in the cache, which is what takes its time here; fifty thousand of them on a small stack are a unit test of the courier's.
    scene.server.set_fault(Fault::Canned(answer(&delta_chain(4_000))));
    let start = Instant::now();
    let error = scene.client.advance(&id(&"3".repeat(40)), Some(&id(&"4".repeat(40)))).unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    // Taken, and what was asked for is not in it.
    assert!(error.to_string().contains("has no object 3333"), "{error}");
    scene.survived();
}

#[test]
fn p6_too_many_objects_are_refused_by_their_number() {
    let mut scene = Scene::new("");
    let blob = |n: u32| [head(3, 4), stored(&n.to_le_bytes())].concat();
    let many = pack(300_000, &(0..300_000).flat_map(blob).collect::<Vec<_>>());
    scene.server.set_fault(Fault::Canned(answer(&many)));
    let start = Instant::now();
    let error = scene.client.advance(&id(&"3".repeat(40)), Some(&id(&"4".repeat(40)))).unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert!(error.to_string().contains("300000 objects"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    scene.survived();
}

#[test]
fn p5_packs_that_lie_about_themselves_are_refused() {
    let mut scene = Scene::new("");
    let good = pack(1, &[head(3, 5), stored(b"hello")].concat());
    let mut wrong_trailer = good.clone();
    *wrong_trailer.last_mut().unwrap() ^= 1;
    let huge_count = pack(u32::MAX, &[head(3, 5), stored(b"hello")].concat());
    let huge_entry = pack(1, &[head(3, 1 << 40), stored(b"hello")].concat());
    // Thin: a delta on an object that is not in it, and that nobody has.
    let delta = [varint(5), varint(5), vec![0x80 | 0x10, 5]].concat();
    let thin = pack(1, &[head(7, delta.len() as u64), vec![0x44; 20], stored(&delta)].concat());
    let itself = pack(1, &[head(6, delta.len() as u64), vec![0], stored(&delta)].concat());
    let before = pack(1, &[head(6, delta.len() as u64), behind(1 << 40), stored(&delta)].concat());
    let short = pack(2, &[head(3, 5), stored(b"hello")].concat());
    let long = pack(1, &[head(3, 5), stored(b"hello"), head(3, 5), stored(b"olleh")].concat());
    let version = {
        let mut pack = good.clone();
        pack[7] = 9;
        pack
    };
    let cut = good[..20].to_vec();
    for lie in [
        thin,
        itself,
        before,
        short,
        long,
        version,
        wrong_trailer,
        huge_count,
        huge_entry,
        cut,
        b"PACK".to_vec(),
        b"JUNKJUNKJUNKJUNK".to_vec(),
    ] {
        scene.server.set_fault(Fault::Canned(answer(&lie)));
        let error = scene.client.objects(ObjectKind::Blob, &[id(&"3".repeat(40))], 16 << 20).unwrap_err();
        println!("{error}");
    }
    // A sound pack with something else in it is no answer either.
    scene.server.set_fault(Fault::Canned(answer(&good)));
    let error = scene.client.objects(ObjectKind::Blob, &[id(&"3".repeat(40))], 16 << 20).unwrap_err();
    assert!(matches!(error, ObjectError::Missing { .. }), "{error}");
    scene.survived();
}

#[test]
fn bombs_in_a_bundle_cost_no_more_than_those_of_a_server() {
    let fleet = Fleet::new();
    let tip = fleet.commit(&[("file", "x")]);
    let path = |name: &str| fleet.root().join(name);
    git(&fleet.work(), &["bundle", "create", "-q", path("good").to_str().unwrap(), "main"]);
    let config = path("agent.toml");
    let text = format!("[source]\nurl = 'file://{}'\ntotal-timeout = '1s'\n", path("stick").display());
    fs::write(&config, text).unwrap();
    let zeros = pack(1, &[head(3, 1 << 28), zipped_zeros(1 << 28)].concat());
    let many = (0..300_000u32).flat_map(|n| [head(3, 4), stored(&n.to_le_bytes())].concat()).collect::<Vec<_>>();
    for (name, bomb) in [
        ("a blob of endless zeros", zeros),
        ("deltas that unpack to much", delta_bomb(64, 200)),
        ("deltas that unpack to as much as is legal", delta_bomb(64, 60)),
        ("deltas that burn time", delta_bomb(15_000, 8)),
        ("three hundred thousand blobs", pack(300_000, &many)),
        ("more objects than are legal", pack(u32::MAX, &[])),
        ("an entry of a tebibyte", pack(1, &[head(3, 1 << 40), stored(b"hello")].concat())),
    ] {
        let reference = format!("# v2 git bundle\n{tip} refs/heads/main\n\n");
        fs::write(path("stick"), [reference.as_bytes(), &bomb].concat()).unwrap();
        let mut client = Client::spawn(&trimtab_binary(), &config, &path("cache"), PATIENCE).unwrap();
        let begun = Instant::now();
        let got = client.objects(ObjectKind::Commit, &[tip], 1 << 20).unwrap_err();
        println!("{name}: {got:.100} after {:?}, peak {} KiB", begun.elapsed(), peak(&client) >> 10);
        assert!(begun.elapsed() < Duration::from_secs(15), "{name}: {:?}", begun.elapsed());
        assert!(peak(&client) < 2 * MEMORY, "{name}: {}", peak(&client));
        drop(client);
        fs::copy(path("good"), path("stick")).unwrap();
        let mut client = Client::spawn(&trimtab_binary(), &config, &path("cache"), PATIENCE).unwrap();
        assert_eq!(client.poll("refs/heads/main").unwrap().id, Some(tip), "{name}: a good one is taken after it");
    }
}

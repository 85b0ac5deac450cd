//! Packs that cost too much, on the bounds themselves; `tests/courier/bombs.rs` has those that a whole courier is fed with.

use super::*;
use crate::courier::Class;
use crate::courier::store::Quota;

/// zlib data with one stored block.
fn stored(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap();
    let (a, b) = content.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    [&[0x78, 0x01, 0x01][..], &size.to_le_bytes(), &(!size).to_le_bytes(), content, &((b << 16) | a).to_be_bytes()].concat()
}

/// Seven bits a byte, the lowest first.
fn varint(mut size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while size > 127 {
        out.push(0x80 | u8::try_from(size & 127).unwrap());
        size >>= 7;
    }
    out.push(u8::try_from(size).unwrap());
    out
}

/// A pack's entry: type, size, what stands between, content.
fn entry(kind: u8, between: &[u8], content: &[u8]) -> Vec<u8> {
    let size = content.len();
    let first = (kind << 4) | u8::try_from(size & 15).unwrap();
    let head = if size < 16 { vec![first] } else { [vec![first | 0x80], varint(size >> 4)].concat() };
    [&head[..], between, &stored(content)].concat()
}

/// How far before a delta its base stands.
fn behind(mut distance: usize) -> Vec<u8> {
    let mut offset = vec![u8::try_from(distance & 127).unwrap()];
    while distance > 127 {
        distance = (distance >> 7) - 1;
        offset.insert(0, 0x80 | u8::try_from(distance & 127).unwrap());
    }
    offset
}

fn pack(count: u32, entries: &[u8]) -> Vec<u8> {
    let mut pack = [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes(), entries].concat();
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&pack);
    pack.extend(hasher.try_finalize().unwrap().as_slice());
    pack
}

/// Deltas on one base, each of which makes `times` copies of it: little to send, much to hash.
fn burning(deltas: u32, times: usize) -> Vec<u8> {
    let base = vec![0; 60_000];
    let mut entries = entry(3, &[], &base);
    for n in 0..deltas {
        let mut delta = [varint(base.len()), varint(base.len() * times + 4)].concat();
        for _ in 0..times {
            delta.extend([0x80 | 0x30, 0x60, 0xea]);
        }
        delta.extend([&[4][..], &n.to_le_bytes()].concat());
        let distance = entries.len();
        entries.extend(entry(6, &behind(distance), &delta));
    }
    pack(deltas + 1, &entries)
}

/// Deltas, each on the one before it.
fn chain(deep: u32) -> Vec<u8> {
    let mut entries = entry(3, &[], &[0; 4]);
    let mut last = 0;
    for n in 1..=deep {
        let at = entries.len();
        entries.extend(entry(6, &behind(at - last), &[&[4, 4, 4][..], &n.to_le_bytes()].concat()));
        last = at;
    }
    pack(deep + 1, &entries)
}

fn meter() -> Meter {
    Meter::new(Duration::from_secs(600), Duration::from_secs(600))
}

#[test]
fn p3_a_pack_that_burns_cpu_ends_at_the_bound_of_cpu_and_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), Quota { bytes: 1 << 30, objects: 100_000 }).unwrap();
    let cpu = Duration::from_millis(300);
    let bounds = Bounds { objects: 20_000, object: 16 << 20, total: u64::MAX, cpu };
    // A hundred gigabytes to hash, in two megabytes.
    let bomb = burning(10_000, 170);
    let meter = meter();
    meter.begin(Duration::from_secs(600));
    let error = unpack(&mut bomb.as_slice(), &mut store, gix_hash::Kind::Sha1, bounds, &meter).unwrap_err();
    assert!(matches!(error, CourierError::Costly(said) if said == cpu), "{error:?}");
    assert_eq!(error.class(), Class::Hold, "asking again would burn as much");
    assert_eq!(error.to_string(), "what the server sent takes more than 300ms of CPU time to unpack");
    assert!(fs::read_dir(store.scratch()).unwrap().next().is_none(), "nothing is left of it");
    // What it may cost is no rule about what is in it: a small one goes through the same door.
    unpack(&mut chain(3).as_slice(), &mut store, gix_hash::Kind::Sha1, bounds, &meter).unwrap();
}

#[test]
fn p4_fifty_thousand_deltas_in_a_row_need_no_deeper_stack() {
    let deep = chain(50_000);
    let within = move || {
        let folder = tempfile::tempdir().unwrap();
        let (meter, hash) = (meter(), gix_hash::Kind::Sha1);
        meter.begin(Duration::from_secs(600));
        index(&mut deep.as_slice(), folder.path(), hash, 50_001, 16 << 20, &meter).unwrap();
        let made = fs::read_dir(folder.path()).unwrap().count();
        assert!(made >= 2, "pack and index");
    };
    // Four bytes of it for each delta, would any of them be a call within a call.
    std::thread::Builder::new().stack_size(200 << 10).spawn(within).unwrap().join().unwrap();
}

//! placeholder
mod disk;
mod mounts;
mod recorder;

use std::process::Command;

#[test]
fn proto() {
    mounts::apart();
    let folder = tempfile::tempdir().unwrap();
    let scratch = mounts::Mounted::memory(&folder.path().join("scratch"));
    let file = folder.path().join("scratch/base");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&file).status().unwrap().success());
    let image = disk::Image::load(&file).unwrap();
    let fuse = folder.path().join("scratch/fuse");
    std::fs::create_dir(&fuse).unwrap();
    let recorder = recorder::Recorder::mount(image.clone(), &fuse).unwrap();
    let at = folder.path().join("scratch/mnt");
    let mounted = mounts::Mounted::disk(&recorder.file(), &at, "").unwrap();
    eprintln!("mounted, {} events", recorder.mark());
    std::fs::write(at.join("x"), "hello").unwrap();
    std::fs::File::open(at.join("x")).unwrap().sync_all().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&Command::new("losetup").arg("-l").output().unwrap().stdout));
    eprintln!("synced, {} events", recorder.mark());
    mounted.unmount();
    for e in recorder.log() {
        match e { disk::Event::Write(o, b) => eprintln!("w {} {}", o / 4096, b.len()), disk::Event::Flush => eprintln!("flush") }
    }
    let t = std::time::Instant::now();
    let mut n = 0;
    disk::cuts(&image, &recorder.log(), 2, &mut disk::Dice(1), &mut |cut| {
        let f = folder.path().join("scratch/one");
        cut.image.store(&f).unwrap();
        let m = mounts::Mounted::disk(&f, &at, "").unwrap();
        n += 1;
        m.unmount();
    });
    eprintln!("{n} mounts in {:?}", t.elapsed());
    drop(recorder);
    drop(scratch);
}

//! The process that rendering runs in: what it answers is what is rendered here, and going beyond its bounds kills it and nothing else.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use trimtab::render::{Death, FolderError, Limits, RenderError, read_dir, render, render_in_child};
use trimtab_model::bundle::{BlobKind, Bundle};

use super::{bundle, host, repository_root};

const FLEET: &str = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n";
const TEMPLATE: &str = "components/c/files/etc/a.j2";

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_render-worker"))
}

fn with(template: &str) -> Bundle {
    bundle([("fleet.toml", FLEET), ("components/c/files/etc/0.j2", "fine"), (TEMPLATE, template)])
}

fn died(bundle: &Bundle, limits: Limits) -> (Death, String) {
    let error = render_in_child(exe(), bundle, &host("h"), limits).expect_err("it must die");
    let text = error.to_string();
    match error {
        RenderError::Died { death, at } => {
            assert_eq!(at.as_deref(), Some(TEMPLATE), "{text}");
            (death, text)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_what_is_rendered_here() {
    for (example, name) in [("minimal", "any"), ("containers", "shop-1"), ("multi-site", "kiosk-1")] {
        let bundle = read_dir(&repository_root().join("examples").join(example)).unwrap();
        let there = render_in_child(exe(), &bundle, &host(name), Limits::default()).unwrap();
        assert_eq!(there, render(&bundle, &host(name)).unwrap());
        assert!(!there.contents.is_empty());
    }
    let bad = with("{{ missing }}");
    match render_in_child(exe(), &bad, &host("h"), Limits::default()) {
        Err(RenderError::Refused { findings }) => assert_eq!(Err(findings), render(&bad, &host("h"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_host_passes_through() {
    let mut files = with("fine");
    for n in 0..12_000 {
        super::add(
            &mut files,
            &format!("components/c/files/etc/many/file-with-a-long-name-{n}"),
            BlobKind::Regular,
            n.to_string().as_bytes(),
        );
    }
    super::add(&mut files, "components/c/files/etc/big", BlobKind::Regular, &vec![b'x'; 4 << 20]);
    let rendered = render_in_child(exe(), &files, &host("h"), Limits::default()).unwrap();
    assert_eq!(rendered.desired.entries.len(), 12_003);
}

#[test]
fn a_string_that_doubles_dies_of_memory() {
    let template =
        "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a | length }}";
    let (death, text) = died(&with(template), Limits { memory: 256 << 20, ..Limits::default() });
    assert_eq!(death, Death::Memory { limit: 256 << 20 });
    assert_eq!(
        text,
        format!(
            "the rendering used more than 256 MiB and was ended; look for a template that grows without end, while it was at {TEMPLATE}"
        )
    );
}

/// Few steps, each of them long: what fuel does not see.
const SLOW: &str =
    "{% set a = range(90000) | list %}{% for i in range(90000) %}{% if (a + a) | sort | length == 1 %}{% endif %}{% endfor %}";

#[test]
fn steps_that_take_long_die_of_processor_time() {
    let (death, _) = died(&with(SLOW), Limits { cpu: Duration::from_secs(1), ..Limits::default() });
    assert_eq!(death, Death::Cpu { limit: Duration::from_secs(1) });
}

#[test]
fn the_deadline_holds() {
    let start = Instant::now();
    let (death, _) = died(&with(SLOW), Limits { wall: Duration::from_millis(700), ..Limits::default() });
    assert!(matches!(death, Death::Wall { .. }), "{death:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_child_that_does_not_listen_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let script = |text: &str| {
        let path = folder.path().join(format!("worker-{}", text.len()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let limits = Limits { wall: Duration::from_millis(500), ..Limits::default() };
    // More than a pipe holds, so that writing to somebody who does not read would block for ever.
    let mut large = with("fine");
    super::add(&mut large, "components/c/files/etc/big", BlobKind::Regular, &vec![b'x'; 1 << 20]);
    let error = render_in_child(&script("#!/bin/sh\nexec /bin/sleep 60\n"), &large, &host("h"), limits).unwrap_err();
    assert!(matches!(error, RenderError::Died { death: Death::Wall { .. }, .. }), "{error:?}");
    let error =
        render_in_child(&script("#!/bin/sh\necho the reason >&2; exit 3\n"), &large, &host("h"), Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "the rendering ended by itself (exit status: 3: the reason)");
    let error =
        render_in_child(&script("#!/bin/sh\n/bin/cat >/dev/null; printf '%0400d' 0\n"), &large, &host("h"), Limits::default())
            .unwrap_err();
    assert!(matches!(error, RenderError::Wire(_)), "{error:?}");
    let error = render_in_child(&folder.path().join("none"), &large, &host("h"), Limits::default()).unwrap_err();
    assert!(matches!(error, RenderError::Start { .. }), "{error:?}");
}

#[test]
fn a_folder_is_read_as_git_would_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["components/c/files/etc", "components/empty", ".git", "components/c/.git", "docs"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    for (name, text) in [
        ("fleet.toml", FLEET),
        ("components/c/files/etc/a", "a"),
        (".git/config", "x"),
        ("components/c/.git/config", "x"),
        ("docs/x", ""),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    std::fs::set_permissions(at("components/c/files/etc/a"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", at("components/c/files/etc/link")).unwrap();
    let bundle = read_dir(folder.path()).unwrap();
    let found: Vec<_> = bundle.files.iter().map(|(path, blob)| (path.as_str(), blob.kind)).collect();
    assert_eq!(
        found,
        [
            ("components/c/files/etc/a", BlobKind::Executable),
            ("components/c/files/etc/link", BlobKind::Symlink),
            ("fleet.toml", BlobKind::Regular)
        ]
    );
    assert_eq!(bundle.get("components/c/files/etc/link").unwrap().bytes, b"/etc/shadow");
    assert_eq!(bundle.components.len(), 1, "Git knows no empty folder");
    let rendered = render(&bundle, &host("h")).unwrap();
    assert_eq!(rendered.desired.entries["/etc/a"].state.mode, 0o755);

    nix::unistd::mkfifo(&at("components/c/files/etc/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(read_dir(folder.path()), Err(FolderError::Special { .. })));
    std::fs::remove_file(at("components/c/files/etc/pipe")).unwrap();
    std::fs::File::create(at("components/c/files/etc/huge")).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(read_dir(folder.path()), Err(FolderError::TooLarge { .. })));
    assert!(matches!(read_dir(&at("nowhere")), Err(FolderError::Read { .. })));
}

/// From outside, by what the kernel says: user, groups, limits and environment of the child while it renders.
#[test]
fn the_child_has_given_up_everything() {
    const MEMORY: u64 = (300 << 20) + 4096;
    let limits = Limits { memory: MEMORY, wall: Duration::from_secs(3), ..Limits::default() };
    let rendering = std::thread::spawn(move || died(&with(SLOW), limits));
    let (me, root) = (std::process::id().to_string(), nix::unistd::geteuid().is_root());
    let mut found = None;
    while found.is_none() && !rendering.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let (status, bounds) = (read("status"), read("limits"));
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
            // Other tests' children are this process's too; the odd bound is this one's.
            let dropped = !root || !field("Uid:").starts_with("0\t");
            if field("PPid:") == me && bounds.contains(&MEMORY.to_string()) && dropped {
                found = Some((field("Uid:"), field("Gid:"), field("Groups:"), bounds, read("environ")));
            }
        }
    }
    rendering.join().unwrap();
    let (uid, gid, groups, bounds, environment) = found.expect("the child was seen");
    assert_eq!(environment, "");
    for bound in [
        "Max core file size        0",
        "Max file size             0",
        "Max open files            16",
        "Max cpu time              20",
    ] {
        assert!(bounds.contains(bound), "{bounds}");
    }
    if root {
        assert_eq!((uid.as_str(), gid.as_str(), groups.as_str()), ("65534\t65534\t65534\t65534", "65534\t65534\t65534\t65534", ""));
    }
}

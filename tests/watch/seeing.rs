//! Each way in which something can change, and what is nobody's business.

use crate::{Scene, each_way};

const TREE: &str = "mkdir -p etc/app/conf.d etc/other; echo a > etc/app/a.conf; echo b > etc/app/b.conf; echo m > etc/motd";
const PATHS: [&str; 4] = ["/etc/app/a.conf", "/etc/app/b.conf", "/etc/motd", "/etc/app/conf.d"];

fn scene(by_fanotify: bool) -> Scene {
    Scene::new(by_fanotify, TREE, &PATHS, &[])
}

#[test]
fn every_kind_of_change_is_seen() {
    let owner = if nix::unistd::geteuid().is_root() { "chown 1:1 F" } else { "touch F" };
    let commands = [
        "echo mine > F",
        "echo more >> F",
        "sed -i s/a/b/ F",
        "chmod 600 F",
        owner,
        "rm F",
        "echo other > x; mv x F",
        "mv F y",
        "ln -sfn ../motd F",
        "rm F; mkdir F",
        "ln -f etc/motd F",
        "truncate -s 100 F",
    ];
    // Each a file of its own: what comes again and again would have to wait.
    let file = |number: usize| format!("etc/app/{number}.conf");
    let make = (0..commands.len()).fold(TREE.to_owned(), |make, number| format!("{make}; echo a > {}", file(number)));
    let paths: Vec<String> = (0..commands.len()).map(|number| format!("/{}", file(number))).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).chain(PATHS).collect();
    each_way(|way| {
        let mut scene = Scene::new(way, &make, &paths, &[]);
        for (number, command) in commands.iter().enumerate() {
            let command = command.replace('F', &file(number));
            assert_eq!(scene.sees(&command), [format!("file /{}", file(number))], "{command}");
        }
        let both = scene.sees("mv etc/app/a.conf etc/app/b.conf");
        assert_eq!(both, ["file /etc/app/a.conf", "file /etc/app/b.conf"]);
        assert_eq!(scene.sees("echo new > etc/app/a.conf"), ["file /etc/app/a.conf"]);
        assert_eq!(scene.sees("echo hello > etc/motd"), ["file /etc/motd"]);
        assert_eq!(scene.sees("chmod 700 etc/app/conf.d"), ["file /etc/app/conf.d"], "a directory's own mode");
    });
}

#[test]
fn extended_attributes_are_seen() {
    each_way(|way| {
        let mut scene = scene(way);
        let file = scene.folder.path().join("etc/app/a.conf");
        // Where the file system has none there is nothing to see.
        let command = format!("setfattr -n user.a -v b {}", file.display());
        if std::process::Command::new("sh").args(["-c", &command]).status().is_ok_and(|status| status.success()) {
            assert_eq!(scene.sees("true"), ["file /etc/app/a.conf"]);
        }
    });
}

#[test]
fn neighbours_are_nobodys_business() {
    each_way(|way| {
        let mut scene = scene(way);
        scene.ignores("echo x > etc/app/c.conf; chmod 600 etc/app/c.conf; rm etc/app/c.conf");
        scene.ignores("mkdir etc/app/new; echo x > etc/app/new/a.conf; echo x > etc/other/motd; touch etc/x");
        scene.ignores("cat etc/app/a.conf; ls -l etc/app");
        scene.ignores("chmod 700 etc");
    });
}

#[test]
fn what_lies_below_a_directory_that_moves_or_comes_is_seen() {
    each_way(|way| {
        let mut scene = scene(way);
        let below = ["file /etc/app/a.conf", "file /etc/app/b.conf", "file /etc/app/conf.d"];
        assert_eq!(scene.sees("mv etc/app etc/app.old"), below, "renamed");
        scene.ignores("echo x > etc/app.old/a.conf");
        assert_eq!(scene.sees("mv etc/app.old etc/app"), below, "and back");
        assert_eq!(scene.sees("echo again > etc/app/a.conf"), ["file /etc/app/a.conf"]);
        assert_eq!(scene.sees("rm -r etc/app"), below, "deleted");
        assert_eq!(scene.sees("mkdir -p etc/app/conf.d; echo a > etc/app/a.conf"), below, "and made anew");
        assert_eq!(scene.sees("echo x > etc/app/b.conf"), ["file /etc/app/b.conf"]);
        assert_eq!(scene.sees("mv etc/app etc/real; ln -s real etc/app"), below, "a symlink in its place");
        assert_eq!(scene.sees("echo y > etc/real/b.conf"), ["file /etc/app/b.conf"], "through the symlink");
        assert_eq!(scene.sees("mkdir etc/two; ln -sfn two etc/app"), below, "another target");
        assert_eq!(scene.sees("echo y > etc/two/b.conf"), ["file /etc/app/b.conf"]);
        scene.ignores("echo y > etc/real/a.conf");
    });
}

#[test]
fn a_missing_parent_is_seen_when_it_comes() {
    each_way(|way| {
        let mut scene = Scene::new(way, "mkdir etc", &["/etc/far/away/a.conf"], &[]);
        assert_eq!(scene.sees("mkdir etc/far"), ["file /etc/far/away/a.conf"]);
        assert_eq!(scene.sees("mkdir etc/far/away"), ["file /etc/far/away/a.conf"]);
        assert_eq!(scene.sees("echo x > etc/far/away/a.conf"), ["file /etc/far/away/a.conf"]);
    });
}

#[test]
fn everything_in_an_exclusive_directory_is_seen() {
    each_way(|way| {
        let mut scene = Scene::new(way, TREE, &["/etc/app/a.conf"], &["/etc/app/conf.d"]);
        assert_eq!(scene.sees("echo x > etc/app/conf.d/99-mine.conf"), ["file /etc/app/conf.d/99-mine.conf"]);
        assert!(scene.after("mv etc/app/conf.d etc/app/old").everything);
    });
}

#[test]
fn two_paths_to_one_directory_are_both_told() {
    each_way(|way| {
        let make = "mkdir -p usr/lib/app; ln -s usr/lib lib; echo x > usr/lib/app/a";
        let mut scene = Scene::new(way, make, &["/lib/app/a", "/usr/lib/app/a"], &[]);
        assert_eq!(scene.sees("echo y > usr/lib/app/a"), ["file /lib/app/a", "file /usr/lib/app/a"]);
    });
}

#[test]
fn what_is_new_is_looked_at_once() {
    each_way(|way| {
        let mut scene = scene(way);
        scene.watched.paths.push("/etc/app/c.conf".parse().unwrap());
        scene.arm();
        let new: Vec<_> = scene.watch.take(&[]).sightings.into_iter().map(|sighting| sighting.resource).collect();
        assert_eq!(new, ["file /etc/app/c.conf"], "it may have changed before it was watched");
        assert_eq!(scene.sees("echo c > etc/app/c.conf"), ["file /etc/app/c.conf"]);
    });
}

/// What fanotify tells of who it was; `None` where this user may not ask it.
fn who(scene: &mut Scene, command: &str) -> Option<trimtab_model::drift::Actor> {
    (scene.watch.status().files == "fanotify").then(|| {
        scene.watch.calm();
        let seen = scene.after(command).sightings;
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].actor.clone().expect("because fanotify names the process")
    })
}

#[test]
fn who_did_it_is_told() {
    let mut scene = scene(true);
    let own = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    // It lives on for a moment: under the load of other tests the reader may come late.
    let Some(actor) =
        who(&mut scene, "exec perl -e 'open(F, \">etc/app/a.conf\"); print F 1; close F; select(undef, undef, undef, 0.5)'")
    else {
        return;
    };
    assert_eq!((actor.command.as_str(), actor.user.as_str()), ("perl", "root"), "{actor:?}");
    assert!(actor.pid.is_some_and(|pid| pid != std::process::id()), "{actor:?}");
    assert_eq!(actor.login.is_empty(), own.trim().is_empty() || own.trim() == "4294967295", "{actor:?}");
    let last =
        who(&mut scene, "true > etc/app/b.conf; exec dd if=/dev/zero of=etc/app/b.conf bs=1 count=100000 2>/dev/null").unwrap();
    assert_eq!(last.command, "dd", "the last one that changed it");
}

#[test]
fn who_was_gone_at_once_is_told_as_a_number_or_by_name_and_never_as_another() {
    let paths: Vec<String> = (0..40).map(|number| format!("/etc/{number}.conf")).collect();
    let make = paths.iter().fold("mkdir etc".to_owned(), |make, path| format!("{make}; echo a > .{path}"));
    let mut scene = Scene::new(true, &make, &paths.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let mut known = 0;
    for path in &paths {
        let Some(actor) = who(&mut scene, &format!("sed -i s/a/b/ .{path}")) else { return };
        assert!(actor.pid.is_some() && ["sed", ""].contains(&actor.command.as_str()), "{actor:?}");
        known += u32::from(actor.command == "sed");
    }
    println!("sed -i named: {known} of {}", paths.len());
}

#[test]
fn our_own_writes_are_not_seen() {
    let mut scene = scene(true);
    if scene.watch.status().files != "fanotify" {
        return;
    }
    let etc = scene.folder.path().join("etc");
    std::fs::write(etc.join("app/a.conf"), "ours").unwrap();
    std::fs::rename(etc.join("app/a.conf"), etc.join("app/b.conf")).unwrap();
    std::fs::remove_file(etc.join("motd")).unwrap();
    scene.ignores("true");
    // But a directory that we make is watched.
    std::fs::remove_dir_all(etc.join("app")).unwrap();
    std::fs::create_dir(etc.join("app")).unwrap();
    assert!(scene.seen().is_empty());
    assert_eq!(scene.sees("echo theirs > etc/app/a.conf"), ["file /etc/app/a.conf"]);
}

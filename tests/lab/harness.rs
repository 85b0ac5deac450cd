//! The lab itself: that a machine is what the scenarios take it for. No trimtab in these.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use trimtab_tests::lab::{self, Boot, Person, Watched, eventually};

#[test]
fn systemd_runs_and_a_reboot_keeps_the_disk() {
    let Some(m) = lab::boot("plain") else { return };
    assert_eq!(m.sh("cat /proc/1/comm; hostname; systemctl is-system-running"), "systemd\nplain\nrunning");
    assert_eq!(m.sh("ls /sys/class/net"), "lo", "a machine has no network but its loopback");
    m.write("/etc/kept", "kept\n");
    let boot = m.sh("journalctl --list-boots -q --no-pager | wc -l");
    m.reboot();
    assert_eq!(m.read("/etc/kept"), "kept");
    m.power_cut();
    m.start();
    assert_eq!(m.read("/etc/kept"), "kept");
    assert_eq!(m.sh("hostname"), "plain");
    assert!(boot.parse::<u32>().is_ok(), "{boot}");
}

#[test]
fn a_quadlet_runs_from_the_local_registry() {
    let Some(m) = lab::boot("quadlet") else { return };
    let digest = m.read("/var/lib/lab/busybox-1");
    m.write("/etc/containers/systemd/web.network", "[Network]\n");
    m.write(
        "/etc/containers/systemd/web.container",
        format!(
            "[Container]\nImage=localhost:5000/busybox@{digest}\nNetwork=web.network\nVolume=web-data:/data\nPublishPort=8080:8080\n\
             Exec=/bin/httpd -f -p 8080 -h /etc\n[Install]\nWantedBy=multi-user.target\n"
        ),
    );
    m.sh("systemctl daemon-reload && systemctl start web.service");
    eventually("the container answers", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == "1");
    assert_eq!(m.sh("podman ps --format '{{.Names}}'"), "systemd-web");
}

#[test]
fn a_signed_push_over_https_comes_back() {
    let Some(m) = lab::boot("git") else { return };
    let ana = Person::new(&m, "ana");
    let revision = ana.write("fleet.toml", "format = 1\n").push("First light");
    m.sh("git clone -q https://localhost/fleet.git /root/back");
    assert_eq!(m.sh("git -C /root/back rev-parse HEAD"), revision);
    let allowed = format!("ana@example.org {}\n", ana.key());
    m.write("/root/allowed", allowed);
    let verify = "git -C /root/back -c gpg.ssh.allowedSignersFile=/root/allowed verify-commit HEAD";
    assert_eq!(m.try_sh(verify).code, 0);
    // Without the lab's authority TLS must refuse: otherwise `https` would prove nothing here.
    let blind = m.try_sh(
        "git -c http.https://localhost/.sslCAInfo=/etc/ssl/certs/ca-certificates.crt ls-remote https://localhost/fleet.git",
    );
    assert_ne!(blind.code, 0, "{blind}");
    // A filtered fetch of one commit by its id, as the courier does it.
    m.sh(&format!(
        "git init -q /root/thin && cd /root/thin && git -c protocol.version=2 fetch -q --filter=blob:none --depth 1 https://localhost/fleet.git {revision}"
    ));
    assert!(m.read("/var/log/nginx/access.log").contains("down="), "bytes are counted");
}

#[test]
fn two_machines_share_a_git_host_and_watch_tells_changes() {
    let shared = tempfile::tempdir().expect("because there is room");
    let Some(one) = lab::boot_with(&Boot { name: "one", git: Some(shared.path()), ..Boot::default() }) else { return };
    let Some(two) = lab::boot_with(&Boot { name: "two", git: Some(shared.path()), ..Boot::default() }) else { return };
    let revision = Person::new(&one, "ana").write("a", "a\n").push("Shared");
    assert!(two.sh("git ls-remote https://localhost/fleet.git main").starts_with(&revision));
    assert_ne!(one.read("/etc/machine-id"), two.read("/etc/machine-id"));

    one.sh("touch /etc/nginx/nginx.conf"); // An overlay's folder changes its size when the first of its files is written.
    let before = Watched::new(&one, &["/etc/nginx"], &["nginx.service"]);
    before.assert_same(&Watched::new(&one, &["/etc/nginx"], &["nginx.service"]));
    one.sh("systemctl restart nginx; cp -p /etc/nginx/nginx.conf /tmp/n; cat /tmp/n > /etc/nginx/nginx.conf");
    let after = Watched::new(&one, &["/etc/nginx"], &["nginx.service"]);
    assert_eq!(before.changes(&after), ["/etc/nginx/nginx.conf", "nginx.service"]);
}

#[test]
fn the_units_are_clean() {
    let Some(m) = lab::boot("units") else { return };
    m.sh("cd /usr/lib/systemd/system && systemd-analyze verify --man=no --recursive-errors=no trimtab.service trimtab-courier.socket trimtab-courier@x.service");
    let verify = "systemd-analyze verify --man=no trimtab.service trimtab-courier.socket trimtab-courier@x.service 2>&1";
    assert_eq!(m.sh(&format!("{verify} | grep -i trimtab || true")), "", "not even a warning about ours");
    assert_eq!(m.sh("stat -c '%U:%G %a' /etc/trimtab"), "root:root 755");
    m.sh("systemctl enable --now trimtab-courier.socket");
    assert_eq!(m.sh("stat -c '%U:%G %a' /run/trimtab-courier/courier.sock"), "root:root 600");
    assert_eq!(m.sh("id -un trimtab-courier"), "trimtab-courier");
}

/// Not a test of its own: the one below starts it and kills it.
#[test]
#[ignore = "started by a_killed_owner_leaves_nothing_behind"]
fn holds_a_machine_until_it_is_killed() {
    let Some(m) = lab::boot("held") else { return };
    println!("\nheld {} {}", m.leader(), m.upper().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    if !lab::open() {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().expect("because Linux knows it"))
        .args(["--exact", "harness::holds_a_machine_until_it_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("because it is this very program");
    let output = BufReader::new(owner.stdout.take().expect("because it is piped"));
    let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("held ")).expect("because it boots");
    let mut words = line.split(' ').skip(1);
    let (leader, upper) = (words.next().expect("because it says so"), words.next().expect("because it says so"));
    let (process, folder) = (Path::new("/proc").join(leader), Path::new(upper).parent().expect("because it is in one"));
    assert!(process.is_dir() && folder.is_dir());
    owner.kill().expect("because it sleeps");
    owner.wait().expect("because it is our child");
    eventually("its processes and its folder are gone", 10, || !process.is_dir() && !folder.is_dir());
    let group = folder.file_name().expect("because it has one").to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("because Linux has it");
    assert!(!mounts.contains(&*group), "nothing of it was mounted out here");
}

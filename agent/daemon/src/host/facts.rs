//! What this host says about itself, gathered from the kernel's and the system's own files.
//!
//! A thing that cannot be known is empty, never an error: a fact is an input of templates, and those that need it say so themselves.
//! What belongs to the system (`/etc/machine-id`, `/etc/os-release`) is read beneath the root; what belongs to the running kernel and the
//! hardware is read from the machine, also for a sandbox.

use std::fs;
use std::io::Read;
use std::path::Path;

use trimtab_model::facts::{Facts, OsRelease};

use super::root::Root;

/// No file that facts are read from is larger; `/proc/cpuinfo` of a large server comes nearest.
const LIMIT: u64 = 1 << 20;

/// Gathers the facts.
pub fn gather(root: &Root) -> Facts {
    gather_from(root, Path::new("/"))
}

/// Which boot this is, as the kernel names it; empty where it does not say.
pub fn boot_id(root: &Root) -> String {
    // Of this machine also in a sandbox, unless that has a name of its own (a test that plays a reboot).
    let own = if root.is_host() { String::new() } else { system_text(root, "/run/trimtab/boot_id").trim().to_owned() };
    if own.is_empty() { text(Path::new("/"), "/proc/sys/kernel/random/boot_id").trim().to_owned() } else { own }
}

/// Seconds since the boot, with the time that the machine slept; 0 where the kernel does not say.
pub fn uptime() -> u64 {
    let text = text(Path::new("/"), "/proc/uptime");
    text.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

fn gather_from(root: &Root, machine: &Path) -> Facts {
    let uname = nix::sys::utsname::uname().ok();
    let said = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname.as_ref().map(|name| part(name).to_string_lossy().into_owned()).unwrap_or_default()
    };
    // A sandbox may have a name of its own.
    let own_name = if root.is_host() { String::new() } else { system_text(root, "/etc/hostname").trim().to_owned() };
    let release = ["/etc/os-release", "/usr/lib/os-release"].map(|path| system_text(root, path));
    Facts {
        hostname: if own_name.is_empty() { said(nix::sys::utsname::UtsName::nodename) } else { own_name },
        machine_id: machine_id(&system_text(root, "/etc/machine-id")),
        arch: std::env::consts::ARCH.to_owned(),
        os: os_release(release.iter().find(|text| !text.is_empty()).map_or("", String::as_str)),
        kernel: said(nix::sys::utsname::UtsName::release),
        virtualization: virtualization(machine),
        memory_mib: memory_mib(&text(machine, "proc/meminfo")),
        cpus: cpus(&text(machine, "sys/devices/system/cpu/online")),
    }
}

fn system_text(root: &Root, path: &str) -> String {
    let path = path.parse().expect("because the names in this file are normal paths");
    root.open_trusted(&path).map(read_text).unwrap_or_default()
}

fn text(machine: &Path, path: &str) -> String {
    fs::File::open(machine.join(path)).map(read_text).unwrap_or_default()
}

fn read_text(file: fs::File) -> String {
    let mut bytes = Vec::new();
    match file.take(LIMIT).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

// "uninitialized" stands in it during the very first boot.
fn machine_id(text: &str) -> String {
    let id = text.trim();
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) { id.to_ascii_lowercase() } else { String::new() }
}

fn os_release(text: &str) -> OsRelease {
    let mut os = OsRelease::default();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let value = unquote(value);
        match key {
            "ID" => os.id = value,
            "ID_LIKE" => os.id_like = value.split_whitespace().map(str::to_owned).collect(),
            "VERSION_ID" => os.version_id = value,
            "VERSION_CODENAME" => os.version_codename = value,
            "VARIANT_ID" => os.variant_id = value,
            "PRETTY_NAME" => os.pretty_name = value,
            _ => {}
        }
    }
    os
}

// The shell quoting that os-release(5) allows: none, single, or double with backslashes.
fn unquote(value: &str) -> String {
    let value = value.trim();
    for (quote, escapes) in [('\'', false), ('"', true)] {
        let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let Some(inner) = inner else { continue };
        if !escapes {
            return inner.to_owned();
        }
        let mut text = String::with_capacity(inner.len());
        let mut letters = inner.chars();
        while let Some(letter) = letters.next() {
            text.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
        }
        return text;
    }
    value.to_owned()
}

fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    kib / 1024 / 64 * 64
}

// "0-3,5"
fn cpus(online: &str) -> u32 {
    let count = |range: &str| -> Option<u32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let known: Option<u32> = online.trim().split(',').map(count).sum();
    known.unwrap_or_else(|| std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(0)))
}

// In the order of systemd-detect-virt: a container hides the virtual machine it runs in.
fn virtualization(machine: &Path) -> String {
    container(machine).or_else(|| virtual_machine(machine)).unwrap_or("none").to_owned()
}

fn container(machine: &Path) -> Option<&'static str> {
    let there = |path: &str| machine.join(path).exists();
    if there("proc/vz") && !there("proc/bc") {
        return Some("openvz");
    }
    let release = text(machine, "proc/sys/kernel/osrelease");
    if release.contains("Microsoft") || release.contains("WSL") {
        return Some("wsl");
    }
    let environment = text(machine, "proc/1/environ");
    let variable = environment.split('\0').find_map(|entry| entry.strip_prefix("container=")).unwrap_or_default();
    let said = [text(machine, "run/host/container-manager"), text(machine, "run/systemd/container"), variable.to_owned()];
    let name = said.iter().map(|text| text.trim()).find(|text| !text.is_empty());
    let known = ["lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "rkt", "proot", "pouch"];
    match name {
        Some(name) if name != "oci" => Some(known.into_iter().find(|known| *known == name).unwrap_or("container-other")),
        oci => {
            let by_file = [("run/.containerenv", "podman"), (".dockerenv", "docker")];
            let file = by_file.into_iter().find(|(path, _)| there(path)).map(|(_, name)| name);
            file.or(oci.map(|_| "container-other"))
        }
    }
}

/// What firmware calls itself, and what systemd-detect-virt makes of it; the first that fits.
const FIRMWARE: [(&str, &str); 20] = [
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Oracle Corporation", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
    ("ACRN", "acrn"),
    ("Microsoft Corporation Virtual Machine", "microsoft"),
    ("Powervm", "powervm"),
];

fn virtual_machine(machine: &Path) -> Option<&'static str> {
    let firmware = firmware(machine);
    // These lend themselves on KVM's or Xen's instructions and go by their own name nevertheless.
    if let Some(name @ ("oracle" | "xen" | "amazon" | "parallels" | "google")) = firmware {
        return Some(name);
    }
    // The guest clocks tell the hypervisor without the CPUID instruction: QEMU's firmware is the same with and without KVM.
    let clocks = text(machine, "sys/devices/system/clocksource/clocksource0/available_clocksource");
    if clocks.contains("kvm-clock") {
        return Some("kvm");
    }
    if clocks.contains("hyperv") {
        return Some("microsoft");
    }
    if let Some(name) = firmware {
        return Some(name);
    }
    if text(machine, "sys/hypervisor/type").trim() == "xen" || machine.join("proc/xen/capabilities").exists() {
        // Dom0 sits on the metal.
        return (!text(machine, "proc/xen/capabilities").contains("control_d")).then_some("xen");
    }
    if let Some(name) = device_tree(machine) {
        return Some(name);
    }
    let flagged = text(machine, "proc/cpuinfo").lines().any(|line| {
        line.split_once(':').is_some_and(|(key, flags)| key.trim() == "flags" && flags.split(' ').any(|flag| flag == "hypervisor"))
    });
    flagged.then_some("vm-other")
}

fn firmware(machine: &Path) -> Option<&'static str> {
    let said = |name: &str| text(machine, &format!("sys/class/dmi/id/{name}")).trim().to_owned();
    let (product, vendor) = (said("product_name"), said("sys_vendor"));
    let both = format!("{vendor} {product}");
    for text in [product, both, said("board_vendor"), said("bios_vendor"), said("product_version")] {
        if let Some((_, name)) = FIRMWARE.iter().find(|(start, _)| text.starts_with(start)) {
            return Some(name);
        }
    }
    None
}

fn device_tree(machine: &Path) -> Option<&'static str> {
    let hypervisor = text(machine, "proc/device-tree/hypervisor/compatible");
    let by_name = [("linux,kvm", "kvm"), ("xen", "xen"), ("vmware", "vmware")];
    if let Some((_, name)) = by_name.into_iter().find(|(part, _)| hypervisor.contains(part)) {
        return Some(name);
    }
    if !hypervisor.is_empty() {
        return Some("vm-other");
    }
    text(machine, "proc/device-tree/compatible").contains("qemu").then_some("qemu")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("because /tmp is writable");
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("because it is relative")).expect("because the folder is ours");
            fs::write(path, content).expect("because the folder is ours");
        }
        dir
    }

    #[test]
    fn machines_are_named_as_systemd_names_them() {
        let clock = "sys/devices/system/clocksource/clocksource0/available_clocksource";
        let cases: [(&str, &[(&str, &str)]); 10] = [
            ("none", &[("proc/cpuinfo", "flags\t\t: fpu vmx\n")]),
            ("none", &[("sys/class/dmi/id/sys_vendor", "Microsoft Corporation\n"), ("sys/class/dmi/id/product_name", "Surface")]),
            (
                "microsoft",
                &[("sys/class/dmi/id/sys_vendor", "Microsoft Corporation"), ("sys/class/dmi/id/product_name", "Virtual Machine")],
            ),
            ("qemu", &[("sys/class/dmi/id/sys_vendor", "QEMU\n")]),
            ("kvm", &[("sys/class/dmi/id/sys_vendor", "QEMU\n"), (clock, "kvm-clock tsc")]),
            ("amazon", &[("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"), (clock, "kvm-clock")]),
            ("vm-other", &[("proc/cpuinfo", "flags\t: fpu hypervisor lm\n")]),
            ("podman", &[("run/host/container-manager", "podman\n"), (clock, "kvm-clock")]),
            ("docker", &[("proc/1/environ", "PATH=/bin\0container=oci\0"), (".dockerenv", "")]),
            ("container-other", &[("run/systemd/container", "something-new")]),
        ];
        for (name, files) in cases {
            assert_eq!(virtualization(machine(files).path()), name, "{files:?}");
        }
    }

    #[test]
    fn the_system_beneath_the_root_is_described() {
        let dir = machine(&[
            ("usr/lib/os-release", "ID=debian\nID_LIKE='a b'\nPRETTY_NAME=\"A \\\"B\\\"\"\n# c\nVERSION_ID=13\nbroken\n"),
            ("etc/hostname", "kiosk-7\n"),
            ("etc/machine-id", "0123456789ABCDEF0123456789abcdef\n"),
            ("proc/meminfo", "MemTotal:        2035000 kB\nMemFree: 1 kB\n"),
            ("sys/devices/system/cpu/online", "0-3,6\n"),
        ]);
        std::os::unix::fs::symlink("../usr/lib/os-release", dir.path().join("etc/os-release")).expect("because the folder is ours");
        let facts = gather_from(&Root::open(dir.path()).expect("because it is there"), dir.path());
        assert_eq!(facts.os.id, "debian");
        assert_eq!(facts.os.id_like, ["a", "b"]);
        assert_eq!(facts.os.pretty_name, "A \"B\"");
        assert_eq!(facts.os.version_id, "13");
        assert_eq!((facts.hostname.as_str(), facts.memory_mib, facts.cpus), ("kiosk-7", 1984, 5));
        assert_eq!(facts.machine_id, "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn what_is_not_there_is_empty() {
        let dir = machine(&[]);
        let facts = gather_from(&Root::open(dir.path()).expect("because it is there"), dir.path());
        assert_eq!((facts.machine_id.as_str(), facts.memory_mib, &facts.os), ("", 0, &OsRelease::default()));
        assert_eq!(facts.virtualization, "none");
        assert_eq!(machine_id("uninitialized"), "");
    }
}

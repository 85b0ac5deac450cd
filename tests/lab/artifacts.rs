//! Artifacts on a real machine: a program that a unit runs comes over HTTPS through systemd's courier, signed by minisign, and goes back without a network.

use trimtab_tests::lab::trimtab::{converge, enrol, settled, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

const TOOL: &str = "/usr/local/bin/tool";

/// A server of files beside the Git host, and a key to sign them with; the public half.
pub(crate) fn shop(m: &Machine) -> String {
    m.sh("mkdir -p /srv/files && sed -i 's|location / {|location /files/ { root /srv; }\\n        location / {|' /etc/nginx/nginx.conf && systemctl reload nginx");
    m.sh("cd /root && minisign -G -W -f -p maker.pub -s maker.key >/dev/null && sed -n 2p maker.pub")
}

/// The machine's own `sleep` as a program of version `version`: signed, on the server, and declared with a unit that runs it.
pub(crate) fn offer(m: &Machine, ana: &Person<'_>, version: u32, key: &str) {
    let at = format!("/srv/files/tool-{version}");
    m.sh(&format!(
        "cp /usr/bin/sleep {at} && printf 'version {version}' >> {at} && minisign -S -s /root/maker.key -m {at} >/dev/null"
    ));
    let (size, digest) = (m.sh(&format!("stat -c %s {at}")), m.sh(&format!("sha256sum < {at} | cut -d' ' -f1")));
    let text = format!(
        "[[artifact]]\npath = \"{TOOL}\"\nurl = \"https://localhost/files/tool-{version}\"\nsize = {size}\nsha256 = \"{digest}\"\n\
         minisign = \"{key}\"\nmode = \"0755\"\n"
    );
    ana.write("components/tool/component.toml", &text);
    ana.write(
        "components/tool/systemd/tool.service",
        "[Service]\nExecStart=/usr/local/bin/tool infinity\n[Install]\nWantedBy=multi-user.target\n",
    );
}

fn runs(m: &Machine, version: u32) -> bool {
    m.sh("cat /proc/$(systemctl show -p MainPID --value tool)/exe | tail -c 9") == format!("version {version}")
}

#[test]
fn a_unit_runs_a_fetched_program_and_goes_back_to_the_last_one_without_a_network() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let key = shop(&m);
    fleet::assign(&ana, &["tool"]);
    offer(&m, &ana, 1, &key);
    ana.push("A program");
    enrol(&m, &ana, "");
    converge(&m);
    assert_eq!((runs(&m, 1), m.sh(&format!("stat -c '%U:%G %a' {TOOL}"))), (true, "root:root 755".to_owned()));
    settled(&m);
    start_agent(&m);

    // The next version is on the server only half.
    offer(&m, &ana, 2, &key);
    m.sh("truncate -s -100 /srv/files/tool-2");
    ana.push("The next one");
    eventually("it is told", 30, || m.try_sh("trimtab status").out.contains("are declared (size)"));
    assert!(runs(&m, 1) && !m.sh("journalctl -q -u tool -o cat").contains("Stopping"));
    offer(&m, &ana, 2, &key);
    m.sh("trimtab sync --timeout 1min >/dev/null || true");
    eventually("it runs", 60, || m.try_sh("systemctl is-active tool").code == 0 && runs(&m, 2));
    assert!(m.sh("journalctl -q -u trimtab -o cat").contains("fetched"), "the journal tells of it");

    // Nobody answers any more; what is spoiled is put right, and what was before is still here.
    m.sh("systemctl stop nginx");
    m.sh(&format!("printf x >> {TOOL}.new && mv {TOOL}.new {TOOL}"));
    eventually("it is repaired", 30, || m.sh(&format!("tail -c 9 {TOOL}")) == "version 2");
    m.sh("trimtab rollback 1 --reason 'the new one is worse' --timeout 1min || true");
    eventually("it went back", 60, || m.sh(&format!("tail -c 9 {TOOL}")) == "version 1" && runs(&m, 1));
    assert_eq!(m.sh("stat -c '%U %a' /var/lib/trimtab/blobs"), "root 700");
}

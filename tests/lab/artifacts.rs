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

#[test]
fn a_machine_that_reaches_nothing_is_brought_up_from_a_stick_with_program_and_image() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let key = shop(&m);
    let digest = m.read("/var/lib/lab/busybox-1");
    fleet::assign(&ana, &["tool", "web"]);
    fleet::container(&ana, "web", &digest);
    offer(&m, &ana, 1, &key);
    ana.push("A program and a container");
    let copy = ana.working_copy();
    let ssh = ana.key_file().trim_end_matches(".pub").to_owned();
    let made = m.sh(&format!(
        "cd {copy} && trimtab bundle create --output /root/plant.bundle --host edge-1 --ca-file /etc/ssl/lab-ca.pem --sign-key {ssh} --json 2>/dev/null | jq -c .parts"
    ));
    assert_eq!(made, "4", "commits, a program and its signature, an image");
    m.sh(&format!("trimtab bundle show /root/plant.bundle --key {} >/dev/null", ana.key_file()));
    ana.write("components/tool/files/etc/next.conf", "next\n");
    ana.push("What comes next");
    m.sh(&format!("cd {copy} && trimtab bundle create --output /root/next.bundle --host edge-1 --ca-file /etc/ssl/lab-ca.pem --no-images >/dev/null 2>&1"));

    // From here on there is nothing but the stick.
    m.sh("systemctl stop nginx docker-registry && podman rmi -a -f >/dev/null 2>&1; rm -rf /srv/files /srv/git");
    enrol(&m, &ana, "");
    let nothing = m.try_sh("trimtab once");
    assert!(nothing.code == 1 && !m.has(TOOL), "{nothing}");
    let applied = m.try_sh("trimtab bundle apply /root/plant.bundle");
    assert_eq!(applied.code, 2, "{applied}");
    assert!(runs(&m, 1));
    assert_eq!(m.sh("podman inspect systemd-web --format '{{.ImageDigest}}'"), digest);
    eventually("the page is served", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/hostname").code == 0);
    assert_eq!(m.try_sh("trimtab bundle apply /root/plant.bundle").code, 0, "a second time there is nothing to do");
    assert_eq!(m.sh("ls -A /var/cache /var/cache/trimtab | grep -c applying || true"), "0");

    // The agent holds it by what it was given, and takes the next stick itself: it has no network, and its courier of one pass needs none.
    start_agent(&m);
    m.sh(&format!("cp /bin/true {TOOL}.new && mv {TOOL}.new {TOOL}"));
    eventually("it is repaired", 30, || m.sh(&format!("tail -c 9 {TOOL}")) == "version 1");
    let agent = m.sh("systemctl show -p MainPID --value trimtab");
    let next = m.try_sh("trimtab bundle apply /root/next.bundle --timeout 1min");
    assert!(
        next.code == 2 && m.read("/etc/next.conf") == "next" && runs(&m, 1),
        "{next}{}",
        m.sh("journalctl -q -u trimtab -o cat | tail -20")
    );
    assert_eq!(m.sh("systemctl show -p MainPID --value trimtab"), agent, "nobody stopped it");
    assert_eq!(m.sh("ls -A /var/cache /var/cache/trimtab /var/lib/trimtab | grep -c applying || true"), "0");
    let old = m.try_sh("trimtab bundle apply /root/plant.bundle --timeout 1min");
    assert!(old.code == 1 && old.out.contains("most likely it is an older one") && m.has("/etc/next.conf"), "{old}");

    // An image that only bears the name is not left there to be run, and no other name is taken from a stick: a container that is named by tag would run it.
    m.sh("systemctl stop trimtab web && podman rm -af >/dev/null && podman rmi -a -f >/dev/null");
    let another = "m=$(jq -r '.manifests[0].digest' i/index.json | cut -d: -f2) && jq -c '.annotations.forged=\"yes\"' i/blobs/sha256/$m > i/new && \
         n=$(sha256sum < i/new | cut -d' ' -f1) && s=$(stat -c %s i/new) && mv i/new i/blobs/sha256/$n && rm i/blobs/sha256/$m && \
         jq -c \".manifests[0].digest=\\\"sha256:$n\\\" | .manifests[0].size=$s\" i/index.json > index.new && mv index.new i/index.json";
    // Of the same repository: Podman has what was asked for by digest then, too, and only the name says that it is more than that.
    let tagged = "jq -c '.manifests[0].annotations[\"org.opencontainers.image.ref.name\"]=\"localhost:5000/busybox:other\"' i/index.json > index.new && mv index.new i/index.json";
    let docker = "podman load -q -i images/1.tar && podman tag $(podman images -q) localhost/other:1 && rm -r i/* && \
         podman save -q --format docker-archive -o docker.tar localhost/other:1 && tar -xf docker.tar -C i && podman rmi -a -f >/dev/null";
    for (forging, expected) in [
        (another, "the image in it is"),
        (tagged, "it would be called \\\"localhost:5000/busybox:other\\\""),
        (docker, "which is no part of an image in OCI's layout"),
    ] {
        m.sh(&format!(
            "cd /root && rm -rf x && mkdir x && tar -xf plant.bundle -C x && cd x && mkdir i && tar -xf images/1.tar -C i && {forging} && tar -cf images/1.tar -C i . && \
             d=$(sha256sum < images/1.tar | cut -d' ' -f1) && s=$(stat -c %s images/1.tar) && sed -i \"s|^part: sha256:[0-9a-f]* [0-9]* images/1.tar|part: sha256:$d $s images/1.tar|\" manifest && \
             tar --format=ustar --owner=0 --group=0 --mode=0644 --numeric-owner -cf ../forged.bundle manifest repository.bundle $(sed -n 's/^part: [^ ]* [^ ]* \\(artifacts[^ ]*\\)/\\1/p' manifest) images/1.tar"
        ));
        let forged = m.try_sh("trimtab bundle apply --json /root/forged.bundle");
        assert_eq!(m.sh("podman images -a --format '{{.Id}} {{.Names}}'"), "", "{expected}: nothing is loaded\n{forged}");
        assert!(forged.code != 0 && forged.out.contains(expected), "{expected}: {forged}");
        assert!(
            forged.out.contains(&format!("image localhost:5000/busybox@{digest}")),
            "it was read, and its image refused\n{forged}"
        );
    }
    assert!(m.try_sh("curl -sf --max-time 2 http://localhost:8080/hostname").code != 0);
}

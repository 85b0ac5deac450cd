//! What must change nothing: bad templates, bad units, bad signatures, rewritten history.

use trimtab_tests::lab::trimtab::{converge, enrol, once_field, refused, settled};
use trimtab_tests::lab::{self, Machine, Person, Watched};

use crate::fleet;

const UNITS: &[&str] = &["one.service"];

/// A machine that runs one service.
fn running() -> Option<Machine> {
    lab::boot("edge-1")
}

fn first(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(m, &ana, "");
    converge(m);
    ana
}

fn look(m: &Machine) -> Watched {
    Watched::new(m, &["/etc/one.conf", "/etc/systemd", "/etc/containers"], UNITS)
}

#[test]
fn a_bad_template_changes_nothing_and_is_told_with_its_place() {
    let Some(m) = running() else { return };
    let ana = first(&m);
    let before = look(&m);
    fleet::service(&ana, "one", "2");
    ana.write("components/one/files/etc/more.conf.j2", "fine\nport = {{ port }}\n").push("An undefined variable");
    let said = refused(&m);
    assert!(said.contains("components/one/files/etc/more.conf.j2:2:"), "file and line\n{said}");
    before.assert_same(&look(&m));
    assert!(!m.has("/etc/more.conf"));

    ana.write(
        "components/one/files/etc/more.conf.j2",
        "{% for i in range(9000000) %}{% for j in range(9000000) %}x{% endfor %}{% endfor %}\n",
    );
    ana.push("A template that does not end");
    refused(&m);
    before.assert_same(&look(&m));

    ana.write("components/one/files/etc/more.conf.j2", "on {{ host }}\n").push("Mended");
    converge(&m);
    assert_eq!(m.sh("cat /etc/more.conf /etc/one.conf"), "on edge-1\nSETTING=2");
    settled(&m);
}

#[test]
fn a_bad_unit_is_caught_before_anything_is_switched() {
    let Some(m) = running() else { return };
    let ana = first(&m);
    let good = ana.git("rev-parse HEAD");
    let unit =
        |exec: &str| format!("[Service]\nEnvironmentFile=/etc/one.conf\nExecStart={exec}\n[Install]\nWantedBy=multi-user.target\n");
    let quadlet = "[Container]\nImage=localhost:5000/busybox:1\nNoSuchKey=1\n[Install]\nWantedBy=multi-user.target\n";
    let bad = [
        ("components/one/systemd/one.service", unit("not/an/absolute/path")),
        ("components/one/systemd/one.service", unit("/usr/bin/no-such-program")),
        ("components/one/systemd/one.service", unit("/bin/true") + "[Service]\nExecStart=/bin/true\n"),
        ("components/one/quadlet/two.container", quadlet.to_owned()),
    ];
    for (path, text) in bad {
        let before = look(&m);
        ana.git(&format!("checkout -q {good} -- ."));
        ana.write("components/one/files/etc/one.conf", "SETTING=2\n").write(path, &text).push("A bad unit");
        let said = refused(&m);
        let name = path.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default();
        assert!(said.contains(name), "it names the unit\n{said}");
        before.assert_same(&look(&m));
        ana.git(&format!("rm -q --cached {path}"));
        ana.remove(path);
    }
}

#[test]
fn bad_signatures_and_rewritten_history_change_nothing() {
    let Some(m) = running() else { return };
    let ana = first(&m);
    let good = ana.git("rev-parse HEAD");
    let verdict = |what: &str, want: &str| {
        let before = look(&m);
        assert_eq!(once_field(&m, ".trust.verdict"), want, "{what}");
        refused(&m);
        before.assert_same(&look(&m));
        assert_eq!(m.read("/etc/one.conf"), "SETTING=1", "{what}");
    };
    let reset = |to: &str| ana.git(&format!("reset -q --hard {to} && git push -q -f origin HEAD:main"));

    fleet::service(&ana, "one", "2");
    ana.push_as("Nobody signed this", "--no-gpg-sign");
    verdict("unsigned", "unsigned");

    reset(&good);
    fleet::service(&ana, "one", "2");
    let stranger = Person::new(&m, "mallory");
    ana.push_as("A stranger signed this", &format!("-S{}", stranger.key_file()));
    verdict("a stranger's", "unknown-signer");

    reset(&good);
    fleet::service(&ana, "one", "2");
    ana.push("Ana signed this");
    let forged = ana.git("cat-file commit HEAD | sed 's/Ana signed this/Ana signed that/' | git hash-object -t commit -w --stdin");
    reset(&forged);
    verdict("altered after it was signed", "forged");

    reset(&good);
    fleet::service(&ana, "one", "3");
    ana.push("Forward");
    converge(&m);
    assert_eq!(m.read("/etc/one.conf"), "SETTING=3");
    reset(&good);
    let before = look(&m);
    assert_eq!(once_field(&m, ".trust.verdict"), "rolled-back");
    before.assert_same(&look(&m));

    ana.git("commit -q --amend -m 'Another history' && git push -q -f origin HEAD:main");
    assert_eq!(once_field(&m, ".trust.verdict"), "rewritten");
    before.assert_same(&look(&m));
    assert_eq!(m.read("/etc/one.conf"), "SETTING=3");
}

#[test]
fn a_path_that_is_not_the_repositorys_to_manage_is_refused() {
    let Some(m) = running() else { return };
    let ana = first(&m);
    let before = Watched::new(&m, &["/etc/trimtab/agent.toml", "/etc/trimtab/trust.toml", "/etc/one.conf"], UNITS);
    fleet::service(&ana, "one", "2");
    ana.write("components/one/files/etc/trimtab/trust.toml", "mode = \"none\"\n").push("Trust me");
    let said = refused(&m);
    assert!(said.contains("/etc/trimtab/trust.toml"), "{said}");
    before.assert_same(&Watched::new(&m, &["/etc/trimtab/agent.toml", "/etc/trimtab/trust.toml", "/etc/one.conf"], UNITS));
}

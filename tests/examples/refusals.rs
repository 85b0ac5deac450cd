//! Each class of refusal, as an operator sees it: file, line, column, a caret under the spot, and what to do.

use trimtab::render::{render, validate};
use trimtab_model::bundle::BlobKind;
use trimtab_model::facts::PathPolicy;

use super::{add, bundle, host, refused, repository_root, same_as_golden};

const FLEET: &str = "format = 1\n\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"web\"]\n";

#[test]
fn toml_syntax() {
    let fleet = "format = 1\n[[group]\nname = \"a\"\nselect = \"*\n";
    let component = "description = \n[variables.x]\ntype = \"string\"\ntype = \"list\"\n";
    refused("toml-syntax-fleet", &bundle([("fleet.toml", fleet)]));
    refused("toml-syntax-component", &bundle([("fleet.toml", FLEET), ("components/web/component.toml", component)]));
}

#[test]
fn format() {
    refused("format-missing", &bundle([("fleet.toml", "[[group]]\n")]));
    refused("format-newer", &bundle([("fleet.toml", "format = 2\nnew = true\n")]));
    refused("fleet-missing", &bundle([]));
}

#[test]
fn everything_wrong_with_fleet_toml_at_once() {
    let fleet = r#"format = 1
grup = 1

[variables.web]
type = "string"
[variables.facts]
type = "strng"
default = 1
[variables.level]
type = "integer"
choices = [1, 2]
default = 3

[[group]]
name = "all"
select = "role=kiosk site=lab"
component = ["web"]
components = ["web", "wbe", "web"]
[group.set]
levle = 1
level = "high"
[group.set.web]
prot = 1
port = 99999

[[group]]
name = "all"
"#;
    let web = "[variables.port]\ntype = \"integer\"\ndefault = 80\nmax = 65535\n";
    refused("fleet-everything", &bundle([("fleet.toml", fleet), ("components/web/component.toml", web)]));
}

#[test]
fn hosts() {
    let hosts = "labels = { role = \"a b\", host = \"x\" }\ncomponents = [\"extra\"]\nwithout = [\"base\", \"extra\"]\n[set.web]\nport = 1.5\n";
    let files = [
        ("fleet.toml", FLEET),
        ("hosts/h.toml", hosts),
        ("components/web/component.toml", "depends = [\"base\"]\n[variables.port]\ntype = \"integer\"\n"),
        ("components/base/files/etc/a", ""),
        ("components/extra/files/etc/b", ""),
    ];
    refused("host", &bundle(files));
}

#[test]
fn values() {
    let component = "[variables.port]\ntype = \"integer\"\n[variables.ports]\ntype = \"list\"\n";
    let fleet = format!("{FLEET}[group.set.web]\nports = 80\n");
    refused("values", &bundle([("fleet.toml", fleet.as_str()), ("components/web/component.toml", component)]));
}

#[test]
fn rings() {
    let files = [
        ("fleet.toml", FLEET),
        ("components/web/component.toml", "depends = [\"app\"]\n"),
        ("components/app/component.toml", "depends = [\"base\"]\n"),
        ("components/base/component.toml", "depends = [\"web\"]\n"),
    ];
    refused("ring", &bundle(files));
}

#[test]
fn component_toml() {
    let component = r#"[[file]]
path = "/etc/app.cfg"
mode = 640
[[file]]
path = "/etc/app.conf"
mode = "0999"
owner = "Root User"
[[directory]]
path = "srv/x"
[[directory]]
path = "/var/lib/../x"
[[symlink]]
path = "/etc/l"
[[unit]]
name = "a/b.service"
[[unit]]
name = "web.service"
on-change = "relaod"
masked = true
active = true
[unit.extra]
"#;
    refused(
        "component-toml",
        &bundle([("fleet.toml", FLEET), ("components/web/component.toml", component), ("components/web/files/etc/app.conf", "")]),
    );
}

#[test]
fn drift() {
    let fleet = FLEET.replace("[\"web\"]", "[\"web\", \"app\"]");
    let web = r#"drift = "enforec"
[[file]]
path = "/etc/a"
drift = true
[[directory]]
path = "/etc"
exclusive = "purge"
[[directory]]
path = "/etc/cron.d"
exclusive = "report"
[[directory]]
path = "/var/lib/web"
exclusive = "purge"
except = ["a/b", ""]
[[directory]]
path = "/etc/web"
exclusive = "delete"
[[directory]]
path = "/etc/web2"
except = ["*.bak"]
[[unit]]
name = "web.service"
drift = "create-once"
"#;
    let app = "drift = \"create-once\"\n[[directory]]\npath = \"/var/lib/web\"\nexclusive = \"report\"\n";
    let service = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
    let files = [
        ("fleet.toml", fleet.as_str()),
        ("components/web/component.toml", web),
        ("components/web/files/etc/a", ""),
        ("components/app/component.toml", app),
        ("components/app/systemd/app.service", service),
    ];
    refused("drift", &bundle(files));
}

#[test]
fn ignored_keys() {
    let component = r#"[[file]]
path = "/etc/app.conf"
ignore = ["a.b"]
[[file]]
path = "/etc/app.json"
ignore = ["a..b", "a b", "*", 'x."y', "ok.key"]
format = "jsn"
[[file]]
path = "/etc/app.ini"
ignore = ["a.b.c", "a.'*'"]
[[file]]
path = "/etc/app.toml"
format = "toml"
[[file]]
path = "/etc/app.yaml"
ignore = []
[[file]]
path = "/etc/cut.toml"
ignore = ["port"]
[[file]]
path = "/etc/two.yml"
ignore = ["port"]
"#;
    let mut files = bundle([
        ("fleet.toml", FLEET),
        ("components/web/component.toml", component),
        ("components/web/files/etc/cut.toml.j2", "port = 1\nhost = {{ host }}\n"),
        ("components/web/files/etc/two.yml", "port: 1\n---\nport: 2\n"),
    ]);
    for name in ["app.conf", "app.json", "app.ini", "app.toml", "app.yaml"] {
        add(&mut files, &format!("components/web/files/etc/{name}"), BlobKind::Regular, b"");
    }
    refused("ignored-keys", &files);
}

#[test]
fn folders() {
    let mut files = bundle([
        ("fleet.toml", FLEET),
        ("components/web/component.tml", ""),
        ("components/web/file/etc/a", ""),
        ("components/web/systemd/web.conf", ""),
        ("components/web/systemd/web.service.d/sub/x.conf", ""),
        ("components/web/systemd/service.d/x.conf", ""),
        ("components/web/systemd/x y.service", ""),
        ("components/web/quadlet/sub/web.container", ""),
        ("components/web/quadlet/web.contaner.d/x.conf", ""),
        ("components/web/sysctl/a.txt", ""),
        ("components/web/files/etc/systemd/system/a.service", ""),
        ("components/web/files/etc/.j2", ""),
        ("components/web/files/.gitkeep", ""),
        ("components/web/README.md", ""),
    ]);
    add(&mut files, "components/web/systemd/link.service", BlobKind::Symlink, b"/dev/null");
    add(&mut files, "components/web/files/etc/link.j2", BlobKind::Symlink, b"x");
    add(&mut files, "components/web/files/etc/empty", BlobKind::Symlink, b"");
    refused("folders", &files);
}

#[test]
fn paths() {
    let component = "[[directory]]\npath = \"/etc/trimtab/x\"\n[[symlink]]\npath = \"/etc/systemd/system/a.service\"\ntarget = \"/dev/null\"\n[[directory]]\npath = \"/run/app\"\n";
    let files = [
        ("fleet.toml", FLEET),
        ("components/web/component.toml", component),
        ("components/web/files/usr/bin/x", ""),
        ("components/web/files/etc/shadow", ""),
        ("components/web/systemd/trimtab.service.d/x.conf", ""),
        ("components/web/systemd/trimtab-courier.service", ""),
        ("components/web/files/usr/local/lib/systemd/system/trimtab.service.d/x.conf", ""),
    ];
    refused("paths", &bundle(files));
}

#[test]
fn claims() {
    let fleet = FLEET.replace("[\"web\"]", "[\"web\", \"app\"]");
    let component = "[[directory]]\npath = \"/etc/app.conf\"\n[[symlink]]\npath = \"/etc/l\"\ntarget = \"m\"\n";
    let files = [
        ("fleet.toml", fleet.as_str()),
        ("components/web/files/etc/app.conf", ""),
        ("components/web/files/etc/x", ""),
        ("components/web/files/etc/x.j2", ""),
        ("components/web/files/etc/l/below", ""),
        ("components/app/component.toml", component),
        ("components/app/files/etc/x/y", ""),
    ];
    refused("claims", &bundle(files));
}

#[test]
fn templates() {
    let files = [
        ("fleet.toml", FLEET),
        ("hosts/h.toml", "labels = { site = \"lyon\" }\n"),
        (
            "components/web/component.toml",
            "[variables.port]\ntype = \"integer\"\ndefault = 80\n[variables.m]\ntype = \"map\"\ndefault = { a = 1 }\n",
        ),
        ("components/web/files/etc/a.j2", "ok\nport = {{ prot }}\n"),
        ("components/web/files/etc/b.j2", "{{ port }}\n{% for x in y %}{{ x }}\n"),
        ("components/web/files/etc/c.j2", "site = {{ labels.sight }} {{ port }}\n"),
        ("components/web/files/etc/d.j2", "{% include 'a.j2' %}\n"),
        ("components/web/files/etc/e.j2", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}\n"),
        ("components/web/files/etc/f.j2", "{{ port | nofilter }}\n"),
        ("components/web/files/etc/g.j2", "{{ facts.os.version_idd }}\n"),
        ("components/web/files/etc/h.j2", "{{ m.a.b }} {{ fleet.domain }}\n"),
        ("components/web/files/etc/i.j2", "{% for x in range(20000) %}{{ 'x' * 1000 }}{% endfor %}\n"),
        ("components/web/files/etc/j.j2", "é {{ port + 'x' }}\n"),
    ];
    let mut files = bundle(files);
    add(&mut files, "components/web/files/etc/k.j2", BlobKind::Regular, b"\xff\xfe {{ port }}");
    refused("templates", &files);
}

#[test]
fn units() {
    let component = r#"[[unit]]
name = "plain.service"
enabled = true
[[unit]]
name = "web.service"
masked = true
[[unit]]
name = "t@.service"
[[unit]]
name = "trimtab.service"
active = false
[[unit]]
name = "chrony.service"
uses = ["/etc/chrony.conf"]
"#;
    let fleet = FLEET.replace("[\"web\"]", "[\"web\", \"app\"]");
    let files = [
        ("fleet.toml", fleet.as_str()),
        ("components/web/component.toml", component),
        ("components/web/systemd/plain.service", "[Service]\nExecStart=/bin/true\nnonsense\n"),
        ("components/web/systemd/t@.service", "[Service]\n"),
        ("components/web/systemd/db.service", "[Service]\n"),
        ("components/web/quadlet/web.container.j2", "[Container]\nImage=x\n{{ 'stray' }}\n"),
        ("components/web/quadlet/web.kube", "[Kube]\nYaml=web.yaml\n"),
        ("components/web/quadlet/bad.container", "[Container]\nServiceName=a/b\n"),
        (
            "components/app/component.toml",
            "[[unit]]\nname = \"chrony.service\"\nactive = true\n[[unit]]\nname = \"db.service\"\nactive = true\n",
        ),
    ];
    let mut files = bundle(files);
    add(&mut files, "components/web/systemd/binary.service", BlobKind::Regular, b"[Unit]\n\xff");
    refused("units", &files);
}

#[test]
fn protected_units() {
    let component = "[[unit]]\nname = \"ssh.service\"\nactive = false\n[[unit]]\nname = \"other.service\"\nactive = true\n";
    let files = [
        ("fleet.toml", FLEET),
        ("components/web/component.toml", component),
        ("components/web/systemd/getty@tty1.service.d/a.conf", "[Service]\nExecStart=\n"),
        ("components/web/systemd/getty@.service.d/a.conf", "[Service]\nExecStart=\n"),
        ("components/web/systemd/net-one.service", "[Service]\nExecStart=/bin/true\n"),
        ("components/web/systemd/net-.service.d/all.conf", "[Service]\nNice=1\n"),
        ("components/web/quadlet/net.container", "[Container]\nImage=x@sha256:0\nServiceName=net-two\n"),
        (
            "components/web/systemd/fine.service",
            "[Service]\nExecStart=/bin/true\n[Install]\nAlias=fine-too.service ssh.service\nAlso=getty@tty2.service\n",
        ),
    ];
    let files = bundle(files);
    let mut host = host("h");
    // Without a policy that names them all of it is fine.
    render(&files, &host).unwrap();
    host.policy.protect_units = ["ssh.service", "getty@*.service", "net-*"].map(str::to_owned).to_vec();
    let drawn = render(&files, &host).unwrap_err().draw(false);
    same_as_golden(&repository_root().join("tests/examples/refusals/protected-units.txt"), &drawn);
}

#[test]
fn validate_tells_of_the_whole_repository() {
    let fleet = "format = 1\n[[group]]\nname = \"a\"\nselect = \"role=kiosk\"\ncomponents = [\"web\"]\n[[group]]\nname = \"b\"\nselect = \"x=1,x=2\"\n";
    let files = [
        ("fleet.toml", fleet),
        ("hosts/-bad.toml", ""),
        ("hosts/good.toml", "labels = { role = \"other\" }\n"),
        ("hosts/typo.tml", ""),
        ("components/stray", ""),
        ("components/web/files/etc/a.j2", "{{ labels.anything }} {{ missing }}\n"),
        ("components/web/quadlet/c.container", "[Container]\nImage=docker.io/library/busybox\nNetwork=no.network\n"),
        ("components/idle/files/etc/b.j2", "{% if %}\n"),
    ];
    let report = validate(&bundle(files), &PathPolicy::default());
    assert_eq!((report.hosts, report.components), (1, 2));
    let text = format!("errors\n\n{}\nwarnings\n\n{}", report.errors.draw(false), report.warnings.draw_warnings(false));
    same_as_golden(&repository_root().join("tests/examples/refusals/validate.txt"), &text);
}

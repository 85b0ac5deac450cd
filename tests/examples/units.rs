//! What is worked out from the text of units: what they are made of, what they read, how they are managed.

use std::collections::BTreeSet;

use trimtab::render::render;
use trimtab_model::desired::{Desired, Enablement, OnChange, Role, Unit};
use trimtab_model::facts::{Host, PathPolicy};
use trimtab_model::names::{HostPath, UnitName};

use super::{bundle, host};

fn rendered(files: &[(&str, &str)]) -> Desired {
    let fleet = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n";
    let mut all = vec![("fleet.toml", fleet)];
    all.extend(files);
    render(&bundle(all), &host("h")).unwrap_or_else(|findings| panic!("{}", findings.draw(false))).desired
}

fn unit<'d>(desired: &'d Desired, name: &str) -> &'d Unit {
    desired.units.get(name).unwrap_or_else(|| panic!("{name} is not among {:?}", desired.units.keys()))
}

fn paths(set: &BTreeSet<HostPath>) -> Vec<&str> {
    set.iter().map(HostPath::as_str).collect()
}

#[test]
fn a_unit_is_managed_as_its_install_section_says() {
    let desired = rendered(&[
        ("components/c/systemd/a.service", "[Service]\nExecStart=/bin/a\n[Install]\nWantedBy=multi-user.target\n"),
        ("components/c/systemd/b.service", "[Service]\nExecStart=/bin/b\n"),
        ("components/c/systemd/b.timer", "[Timer]\nOnBootSec=1\n[Install]\nWantedBy=timers.target\n"),
        ("components/c/systemd/once.service", "[Service]\nType=oneshot\nExecStart=/bin/c\n[Install]\nWantedBy=multi-user.target\n"),
        ("components/c/systemd/stays.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/c\n"),
        ("components/c/systemd/off.service", "[Service]\nExecStart=/bin/c\n[Install]\nWantedBy=multi-user.target\n"),
        ("components/c/systemd/t@.service", "[Service]\nExecStart=/bin/c %i\n[Install]\nWantedBy=multi-user.target\n"),
        ("components/c/systemd/t@.service.d/x.conf", "[Service]\nNice=1\n"),
        ("components/c/systemd/sshd.service.d/x.conf", "[Service]\nNice=1\n"),
        ("components/c/systemd/user-.slice.d/x.conf", "[Slice]\nTasksMax=1\n"),
        (
            "components/c/component.toml",
            "[[unit]]\nname = \"off.service\"\nenabled = false\n[[unit]]\nname = \"t@one.service\"\nenabled = true\n[[unit]]\nname = \"cups.service\"\nmasked = true\n[[unit]]\nname = \"b.service\"\non-change = \"reload\"\n",
        ),
    ]);
    let state = |name: &str| (unit(&desired, name).enabled, unit(&desired, name).active, unit(&desired, name).oneshot);
    assert_eq!(state("a.service"), (Some(Enablement::Enabled), Some(true), false));
    assert_eq!(state("b.service"), (None, None, false));
    assert_eq!(unit(&desired, "b.service").on_change, OnChange::Reload);
    assert_eq!(state("b.timer"), (Some(Enablement::Enabled), Some(true), false));
    assert_eq!(state("once.service"), (Some(Enablement::Enabled), Some(true), true));
    assert_eq!(state("stays.service"), (None, None, false));
    assert_eq!(state("off.service"), (Some(Enablement::Disabled), Some(false), false));
    assert_eq!(state("t@one.service"), (Some(Enablement::Enabled), Some(true), false));
    assert_eq!(state("cups.service"), (Some(Enablement::Masked), Some(false), false));
    assert_eq!(state("sshd.service"), (None, None, false));
    assert_eq!(
        paths(&unit(&desired, "t@one.service").definition),
        ["/etc/systemd/system/t@.service", "/etc/systemd/system/t@.service.d/x.conf"]
    );
    // Neither a template nor a prefix is a unit.
    assert!(!desired.units.contains_key("t@.service") && !desired.units.contains_key("user-.slice"));
    let role = &desired.entries["/etc/systemd/system/sshd.service.d/x.conf"].role;
    assert_eq!(*role, Role::Unit("sshd.service".parse().unwrap()));
}

#[test]
fn a_drop_in_counts_as_the_unit_s_own_text() {
    let desired = rendered(&[
        ("components/c/systemd/a.service", "[Service]\nType=oneshot\nEnvironmentFile=/etc/old\nExecStart=/bin/a\n"),
        ("components/c/systemd/a.service.d/20.conf", "[Service]\nRemainAfterExit=yes\n"),
        (
            "components/c/systemd/a.service.d/10.conf",
            "[Service]\nRemainAfterExit=no\nEnvironmentFile=\nEnvironmentFile=-/etc/new\n",
        ),
        ("components/c/systemd/a-.service.d/10.conf", "[Service]\nNice=1\n"),
        ("components/c/systemd/a-b.service", "[Service]\nExecStart=/bin/a\n"),
        ("components/c/files/etc/old", ""),
        ("components/c/files/etc/new", ""),
    ]);
    let a = unit(&desired, "a.service");
    assert!(!a.oneshot, "20.conf comes after 10.conf");
    assert_eq!(paths(&a.uses), ["/etc/new"]);
    assert_eq!(a.definition.len(), 3);
    assert_eq!(
        paths(&unit(&desired, "a-b.service").definition),
        ["/etc/systemd/system/a-.service.d/10.conf", "/etc/systemd/system/a-b.service"]
    );
}

#[test]
fn what_a_unit_reads_is_worked_out() {
    let text = "[Service]\nEnvironmentFile=-/etc/env/*.env\nExecStartPre=-+/opt/c/check --config=/etc/c/check.conf\n\
                ExecStart=@/opt/c/run argv0 \"/etc/c/with space\" /etc/c/%p.conf\nLoadCredential=key:/etc/c/key\n\
                ConfigurationDirectory=conf other:link\nBindReadOnlyPaths=-/srv/data:/data\n";
    let desired = rendered(&[
        ("components/c/systemd/app.service", text),
        ("components/c/files/etc/env/a.env", ""),
        ("components/c/files/opt/c/check", ""),
        ("components/c/files/opt/c/run", ""),
        ("components/c/files/opt/c/unused", ""),
        ("components/c/files/etc/c/check.conf", ""),
        ("components/c/files/etc/c/with space", ""),
        ("components/c/files/etc/c/app.conf", ""),
        ("components/c/files/etc/c/key", ""),
        ("components/c/files/etc/conf/deep/x", ""),
        ("components/c/files/etc/conf2", ""),
        ("components/c/files/etc/other/y", ""),
        ("components/c/files/srv/data/z", ""),
        ("components/c/files/etc/named", ""),
        ("components/c/component.toml", "[[unit]]\nname = \"app.service\"\nuses = [\"/etc/named\"]\n"),
    ]);
    assert_eq!(
        paths(&unit(&desired, "app.service").uses),
        [
            "/etc/c/app.conf",
            "/etc/c/check.conf",
            "/etc/c/key",
            "/etc/c/with space",
            "/etc/conf/deep/x",
            "/etc/env/a.env",
            "/etc/named",
            "/etc/other/y",
            "/opt/c/check",
            "/opt/c/run",
            "/srv/data/z"
        ]
    );
}

#[test]
fn quadlet_names_are_podman_s() {
    let desired = rendered(&[
        ("components/c/quadlet/a.container", "[Container]\nImage=a.build\n[Install]\nWantedBy=default.target\n"),
        ("components/c/quadlet/b.pod", "[Pod]\n[Install]\nWantedBy=default.target\n"),
        ("components/c/quadlet/c.network", "[Network]\n[Install]\nWantedBy=default.target\n"),
        ("components/c/quadlet/d.volume", "[Volume]\n"),
        ("components/c/quadlet/e.image", "[Image]\nImage=quay.io/e@sha256:0\n"),
        ("components/c/quadlet/a.build", "[Build]\nImageTag=localhost/a\nFile=Containerfile\n"),
        ("components/c/quadlet/Containerfile", "FROM scratch\n"),
        ("components/c/quadlet/g.kube", "[Kube]\nYaml=g.yaml\nConfigMap=./sub/../map.yaml\n"),
        ("components/c/quadlet/g.yaml", ""),
        ("components/c/quadlet/map.yaml", ""),
        ("components/c/quadlet/h.container", "[Container]\nServiceName=other\nImage=localhost/a\n"),
        ("components/c/quadlet/h.container.d/10.conf", "[Container]\nServiceName=renamed\n"),
        ("components/c/quadlet/i.container", "[Container]\nImage=e.image\n"),
        ("components/c/systemd/a.service.d/x.conf", "[Service]\nNice=1\n"),
        ("components/c/component.toml", "[[unit]]\nname = \"renamed.service\"\nactive = true\n"),
    ]);
    let names: Vec<_> = desired.units.iter().map(|(name, unit)| (name.as_str(), unit.active)).collect();
    assert_eq!(
        names,
        [
            ("a-build.service", None),
            ("a.service", Some(true)),
            ("b-pod.service", Some(true)),
            ("c-network.service", None),
            ("d-volume.service", None),
            ("e-image.service", None),
            ("g.service", None),
            ("i.service", None),
            ("renamed.service", Some(true)),
        ]
    );
    assert!(desired.units.values().all(|unit| unit.generated && unit.enabled.is_none()));
    assert_eq!(paths(&unit(&desired, "a-build.service").uses), ["/etc/containers/systemd/Containerfile"]);
    assert_eq!(paths(&unit(&desired, "g.service").uses), ["/etc/containers/systemd/g.yaml", "/etc/containers/systemd/map.yaml"]);
    assert_eq!(
        paths(&unit(&desired, "a.service").definition),
        ["/etc/containers/systemd/a.container", "/etc/systemd/system/a.service.d/x.conf"]
    );
    assert_eq!(unit(&desired, "a.service").after, ["a-build.service".parse().unwrap()].into());
    let image = |name: &str| desired.image_of(&name.parse().unwrap());
    assert_eq!(
        (image("renamed.service"), image("a.service")),
        (Some("localhost/a"), None),
        "what a build makes is another each time"
    );
    assert_eq!((image("e-image.service"), image("i.service")), (Some("quay.io/e@sha256:0"), Some("quay.io/e@sha256:0")));
    // What is built here is not pulled.
    assert_eq!(desired.images.keys().collect::<Vec<_>>(), ["quay.io/e@sha256:0"]);
    let role = &desired.entries["/etc/containers/systemd/h.container.d/10.conf"].role;
    assert_eq!(*role, Role::Quadlet("renamed.service".parse().unwrap()));
}

#[test]
fn what_a_container_reads_is_worked_out() {
    let text = "[Container]\nImage=docker.io/x@sha256:1\nEnvironmentFile=./web.env\nEnvironmentFile=-/etc/web/abs.env\n\
                Volume=/etc/web/conf:/conf:ro\nVolume=data.volume:/data\nVolume=named:/x\nMount=type=bind,src=/srv/www,dst=/www\n\
                Mount=type=volume,source=more.volume,dst=/more\nNetwork=net.network:ip=10.0.0.2\nPod=pod.pod\n\
                PodmanArgs=--env-file /etc/web/args.env --volume=/srv/args:/a\nSecret=token\n[Service]\nExecStartPre=/opt/pre\n";
    let desired = rendered(&[
        ("components/c/quadlet/web.container", text),
        ("components/c/quadlet/web.env", ""),
        ("components/c/quadlet/data.volume", "[Volume]\n"),
        ("components/c/quadlet/more.volume", "[Volume]\n"),
        ("components/c/quadlet/net.network", "[Network]\n"),
        ("components/c/quadlet/pod.pod", "[Pod]\n"),
        ("components/c/files/etc/web/abs.env", ""),
        ("components/c/files/etc/web/args.env", ""),
        ("components/c/files/etc/web/conf/a/b", ""),
        ("components/c/files/etc/web/other", ""),
        ("components/c/files/srv/www/index", ""),
        ("components/c/files/srv/args/x", ""),
        ("components/c/files/opt/pre", ""),
    ]);
    let web = unit(&desired, "web.service");
    assert_eq!(
        paths(&web.uses),
        [
            "/etc/containers/systemd/data.volume",
            "/etc/containers/systemd/more.volume",
            "/etc/containers/systemd/net.network",
            "/etc/containers/systemd/pod.pod",
            "/etc/containers/systemd/web.env",
            "/etc/web/abs.env",
            "/etc/web/args.env",
            "/etc/web/conf/a/b",
            "/opt/pre",
            "/srv/args/x",
            "/srv/www/index"
        ]
    );
    let after: Vec<_> = web.after.iter().map(UnitName::as_str).collect();
    assert_eq!(after, ["data-volume.service", "more-volume.service", "net-network.service", "pod-pod.service"]);
    assert_eq!(desired.images["docker.io/x@sha256:1"].line, 2);
}

#[test]
fn a_reload_that_could_never_come_is_doubted() {
    let warned = |rule: &str| {
        let text = format!("[[unit]]\nname = \"nftables.service\"\nenabled = true\n{rule}");
        let files = [
            ("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n"),
            ("components/c/files/etc/nftables.conf", "flush ruleset\n"),
            ("components/c/component.toml", &text),
        ];
        let report = trimtab_model::render::validate(&bundle(files), &host("h").policy);
        assert!(report.errors.is_empty(), "{}", report.errors.draw(false));
        report.warnings.draw_warnings(false)
    };
    let doubt = warned("on-change = \"reload\"\n");
    assert!(doubt.contains("no change is known to concern nftables.service") && doubt.contains("component.toml:2:8"), "{doubt}");
    assert_eq!(warned("on-change = \"reload\"\nuses = [\"/etc/nftables.conf\"]\n"), "");
    assert_eq!(warned("on-change = \"nothing\"\n"), "");
    assert_eq!(warned(""), "", "who asks for nothing is told nothing");
}

/// Only the host itself lets the repository bring trimtab, and then from the one place where units lie.
#[test]
fn trimtab_itself_is_brought_where_the_host_says_so() {
    let fleet = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n";
    let drop_in = "[Service]\nExecStart=\nExecStart=/opt/trimtab/trimtab agent\n";
    let files = [
        ("fleet.toml", fleet),
        ("components/c/files/usr/bin/trimtab", "program"),
        ("components/c/files/opt/trimtab/trimtab", "program"),
        ("components/c/systemd/trimtab.service.d/50-program.conf", drop_in),
        ("components/c/systemd/trimtab-courier@.service.d/50-program.conf", drop_in),
        ("components/c/component.toml", "[[unit]]\nname = \"trimtab.service\"\nenabled = true\n"),
    ];
    let local = host("h");
    let refused = render(&bundle(files), &local).unwrap_err().draw(false);
    for what in [
        "/usr/bin/trimtab may not be managed: it is trimtab itself; policy.self-update",
        "/trimtab.service.d/",
        "/trimtab-courier@.service.d/",
        "trimtab.service may not",
    ] {
        assert!(refused.contains(what), "{what}\n{refused}");
    }
    let open = Host { policy: PathPolicy { self_update: true, ..PathPolicy::default() }, ..local };
    let desired = render(&bundle(files), &open).unwrap_or_else(|findings| panic!("{}", findings.draw(false))).desired;
    let own = unit(&desired, "trimtab.service");
    assert_eq!(paths(&own.uses), ["/opt/trimtab/trimtab"]);
    assert_eq!((own.enabled, own.active), (Some(Enablement::Enabled), Some(true)));
    assert!(desired.entries.contains_key(&"/usr/bin/trimtab".parse::<HostPath>().unwrap()));
    for path in [
        "files/usr/local/lib/systemd/system/trimtab.service",
        "files/etc/trimtab/agent.toml",
        "files/usr/bin/trimtab.bak",
        "files/var/lib/trimtab/x",
    ] {
        let path = format!("components/c/{path}");
        let more = [&files[..], &[(path.as_str(), "x")]].concat();
        assert!(render(&bundle(more), &open).is_err(), "{path}");
    }
}

//! Small fleets that the scenarios are played with.

use trimtab_tests::lab::{Machine, Person};

/// Gives these components to every host.
pub(crate) fn assign(person: &Person<'_>, components: &[&str]) {
    let quoted: Vec<_> = components.iter().map(|name| format!("{name:?}")).collect();
    let list = quoted.join(", ");
    person.write("fleet.toml", &format!("format = 1\n\n[[group]]\nname = \"everyone\"\nselect = \"*\"\ncomponents = [{list}]\n"));
}

/// A component `name`: a unit `name.service` that reads `/etc/name.conf`.
pub(crate) fn service(person: &Person<'_>, name: &str, setting: &str) {
    person.write(&format!("components/{name}/files/etc/{name}.conf"), &format!("SETTING={setting}\n"));
    person.write(
        &format!("components/{name}/systemd/{name}.service"),
        &format!(
            // Scenarios start it more often than systemd thinks well of.
            "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nEnvironmentFile=/etc/{name}.conf\nExecStart=/bin/sh -c 'echo \"setting $$SETTING\"; exec sleep infinity'\n\n\
             [Install]\nWantedBy=multi-user.target\n"
        ),
    );
}

/// Ana, who has pushed two services, `one` and `two`.
pub(crate) fn two_services(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    assign(&ana, &["one", "two"]);
    service(&ana, "one", "1");
    service(&ana, "two", "1");
    ana.push("Two services");
    ana
}

/// A component `name`: a container that serves the image's `/etc` on port 8080, from the machine's own registry.
pub(crate) fn container(person: &Person<'_>, name: &str, digest: &str) {
    person.write(
        &format!("components/{name}/quadlet/{name}.container"),
        &format!(
            "[Container]\nImage=localhost:5000/busybox@{digest}\nExec=/bin/httpd -f -p 8080 -h /etc\nPublishPort=8080:8080\n\
             StopTimeout=0\n\n[Install]\nWantedBy=multi-user.target\n"
        ),
    );
}

/// The agent may not ask the kernel whether something keeps the clock, as in many containers; it counts from its next start.
pub(crate) fn no_asking_for_the_clock(m: &Machine) {
    m.write(
        "/etc/systemd/system/trimtab.service.d/clock.conf",
        "[Service]\nSystemCallFilter=~adjtimex clock_adjtime clock_adjtime64\n",
    );
    m.sh("systemctl daemon-reload");
}

/// Leaves the mark of a systemd-timesyncd that has set the clock.
pub(crate) fn keep_the_clock(m: &Machine) {
    m.sh("mkdir -p /run/systemd/timesync && touch /run/systemd/timesync/synchronized");
}

//! The status as others see it: over the socket as an ordinary user, by a real Prometheus over loopback, and what the endpoint can do (nothing).

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, Ran, eventually};

use crate::fleet;

const SOCKET: &str = "curl -s -m 10 --unix-socket /run/trimtab-status/status.sock";

/// A host that follows a repository with one service, and is ready.
fn following(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(m, &ana, "");
    start_agent(m);
    eventually("the first converge", 30, || m.try_sh("systemctl is-active one && trimtab status").code == 0);
    ana
}

/// As somebody without any rights.
fn asked(m: &Machine, path: &str) -> Ran {
    m.try_sh(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {SOCKET} -w '\\n%{{http_code}}' http://host{path}"))
}

#[test]
fn anybody_on_the_host_may_ask_and_sees_no_last_words() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = following(&m);
    assert_eq!(m.sh("stat -c '%a %U:%G' /run/trimtab/status.json"), "640 root:trimtab-status");
    assert_ne!(m.try_sh("setpriv --reuid=nobody --regid=nogroup --clear-groups cat /run/trimtab/status.json").code, 0);
    for (path, answer) in [("/healthz", "ok\n\n200"), ("/readyz", "ready\n\n200")] {
        assert_eq!(asked(&m, path).out, answer, "{path}");
    }
    let field = |filter: &str| m.sh(&format!("{SOCKET} http://host/status | jq -r '{filter}'"));
    assert_eq!(field(".conditions[] | select(.type == \"Ready\") | .status"), "True");
    assert_eq!(field(".units[] | [.name, .wanted, .active] | @tsv"), "one.service\tactive\tactive");
    assert_eq!(field(".trust.signer | startswith(\"ana \")"), "true");
    // The kernel is asked, as timedated does, whatever keeps the clock.
    let kept = m.sh("timedatectl show --property NTPSynchronized --value");
    assert_eq!(field(".clock"), if kept == "yes" { "synchronised" } else { "unsynchronised" });
    // Where a unit does not let it, there is a mark of systemd's.
    fleet::no_asking_for_the_clock(&m);
    m.sh("systemctl restart trimtab");
    eventually("nobody knows", 10, || field(".clock") == "unknown");
    fleet::keep_the_clock(&m);
    eventually("the mark is seen", 10, || field(".clock") == "synchronised");
    let since = field(".conditions[0].lastTransitionTime");

    // An idle pass changes nothing but times; asking again with the tag of the same document costs nothing.
    let number = || m.sh("trimtab status --json | jq .lastPass.number");
    let before = number();
    eventually("another pass", 10, || number() != before);
    assert_eq!(field(".conditions[0].lastTransitionTime"), since);

    // A commit that does not become healthy, and says something that is nobody's business.
    ana.write(
        "components/one/systemd/one.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo password=hunter2 >&2; exit 3'\n[Install]\nWantedBy=multi-user.target\n",
    );
    let bad = ana.push("Broken");
    eventually("it is undone, and not ready", 30, || asked(&m, "/readyz").out.contains("was undone"));
    assert!(asked(&m, "/readyz").out.ends_with("503") && asked(&m, "/healthz").out.ends_with("200"));
    assert!(m.read("/run/trimtab/status.json").contains("hunter2"), "the last words are there for root");
    let told = asked(&m, "/status").out;
    assert!(told.contains(&bad) && !told.contains("hunter2"), "{told}");
    assert!(!asked(&m, "/").out.contains("hunter2") && asked(&m, "/").out.contains("was undone"));
    assert_eq!(field("[.conditions[] | select(.status == \"True\") | .type] | join(\" \")"), "Stalled RolledBack");
    let said = m.try_sh("trimtab status");
    assert!(said.code == 1 && said.out.contains("do          push another revision"), "{said}");

    // Stopped, and killed: what serves says so.
    m.sh("systemctl stop trimtab");
    eventually("its end is told", 10, || asked(&m, "/healthz").out.contains("does not run"));
}

#[test]
fn the_endpoint_has_no_rights_and_leaves_when_nobody_asks() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("systemctl start trimtab-status.socket");
    assert!(asked(&m, "/healthz").out.contains("no pass has ended"), "{}", asked(&m, "/healthz"));
    m.sh("mkdir -p /etc/systemd/system/trimtab-status.service.d /run/trimtab && install -m 0640 -g trimtab-status /dev/null /run/trimtab/status.json");
    m.sh(
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/trimtab endpoint --idle 4s\\n' > /etc/systemd/system/trimtab-status.service.d/idle.conf && \
         systemctl daemon-reload && systemctl stop trimtab-status.service",
    );
    // An empty document: the endpoint that was started before saw the folder, and one that starts now sees it too.
    assert!(asked(&m, "/status").out.contains("cannot be read"), "{}", asked(&m, "/status"));
    let pid = m.sh("systemctl show -p MainPID --value trimtab-status.service");
    assert_eq!(m.sh(&format!("ps -o user= -p {pid}")), "trimtab-status");
    let status = m.read(&format!("/proc/{pid}/status"));
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    // Its whole disk, and its whole network.
    for path in ["/etc/passwd", "/etc/trimtab", "/var/lib", "/run/trimtab-courier", "/root", "/home", "/srv"] {
        assert_ne!(m.try_sh(&format!("ls /proc/{pid}/root{path}/. || cat /proc/{pid}/root{path}")).code, 0, "it sees {path}");
    }
    assert_eq!(m.sh(&format!("nsenter -t {pid} -n ip -o link | wc -l")), "1", "a loopback of its own, and nothing else");
    assert_ne!(m.try_sh(&format!("touch /proc/{pid}/root/run/trimtab/x")).code, 0);
    println!("the endpoint takes {}", m.sh(&format!("grep VmRSS /proc/{pid}/status")));
    eventually("it leaves", 15, || m.try_sh(&format!("test -e /proc/{pid}")).code != 0);
    assert_eq!(m.sh("systemctl is-active trimtab-status.socket; systemctl --failed --no-legend"), "active");
    assert!(asked(&m, "/healthz").out.ends_with("503"), "and comes again");
    assert_eq!(
        m.sh("journalctl -q -u trimtab-status.service -o cat --grep 'Start|Deactiv' | wc -l"),
        "0",
        "without a word in the journal"
    );
}

#[test]
fn a_real_prometheus_scrapes_it_over_loopback_and_nobody_else_does() {
    let Some(m) = lab::boot("edge-1") else { return };
    let _ana = following(&m);
    m.write(
        "/etc/systemd/system/trimtab-status.socket.d/tcp.conf",
        "[Socket]\nListenStream=127.0.0.1:9464\nListenStream=0.0.0.0:9465\n",
    );
    m.sh("systemctl daemon-reload && systemctl stop trimtab-status.service && systemctl restart trimtab-status.socket");
    let metrics = m.sh("curl -sf http://127.0.0.1:9464/metrics");
    let checked = m.try_sh_with("promtool check metrics", (metrics.clone() + "\n").as_bytes());
    assert!(checked.code == 0 && checked.out.is_empty() && checked.err.is_empty(), "{checked}\n{metrics}");
    let open = m.sh("curl -sf -H 'Accept: application/openmetrics-text' -w '%{content_type}' http://127.0.0.1:9464/metrics");
    assert!(open.ends_with("# EOF\napplication/openmetrics-text; version=1.0.0; charset=utf-8"), "{open}");
    // What listens for the world hangs up on everybody.
    let hung_up = m.try_sh("curl -s -m 5 http://127.0.0.1:9465/healthz").code;
    assert!([52, 56].contains(&hung_up), "an empty answer or a reset, it was {hung_up}");
    assert!(m.sh("journalctl -q -u trimtab-status.service -o cat").contains("is not of the loopback"));

    m.write(
        "/root/prometheus.yml",
        "global: {scrape_interval: 1s}\nscrape_configs:\n  - {job_name: trimtab, static_configs: [{targets: ['127.0.0.1:9464']}]}\n",
    );
    m.sh("systemd-run --quiet --unit=prom prometheus --config.file=/root/prometheus.yml --storage.tsdb.path=/root/tsdb --web.listen-address=127.0.0.1:9090");
    let value = |query: &str| {
        let said = m.try_sh(&format!(
            "curl -s 'http://127.0.0.1:9090/api/v1/query' --data-urlencode 'query={query}' | jq -r '.data.result[0].value[1]'"
        ));
        said.out
    };
    eventually("it scrapes", 30, || value("trimtab_ready") == "1");
    assert_eq!(value("up"), "1");
    assert_eq!(value("trimtab_condition{type=\"Ready\",status=\"true\"}"), "1");
    assert_eq!(value("trimtab_managed_resources{kind=\"unit\"}"), "1");
    assert_eq!(value("trimtab_build_info"), "1");
    let prefix = m.sh("printf %d 0x$(trimtab status --json | jq -r .lastAppliedRevision | cut -c1-12)");
    assert_eq!(value("trimtab_applied_revision_prefix"), prefix);
    eventually("counters are counted", 20, || value("increase(trimtab_passes_total{outcome=\"unchanged\"}[10s]) > bool 0") == "1");
    let kind = m.sh("curl -s 'http://127.0.0.1:9090/api/v1/targets/metadata?metric=trimtab_passes' | jq -r '.data[0].type'");
    assert_eq!(kind, "counter", "scraped as OpenMetrics");
    // The agent dies: its last values are not scraped as today's.
    m.sh("systemctl stop trimtab");
    eventually("it is down", 20, || value("up") == "0");
}

#[test]
fn the_metrics_are_written_for_the_node_exporter_when_they_are_news() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = following(&m);
    m.sh("mkdir -p /var/lib/prometheus/node-exporter && printf '\\n[status]\\ntextfile = \"/var/lib/prometheus/node-exporter/trimtab.prom\"\\n' >> /etc/trimtab/agent.toml && trimtab sync");
    let file = "/var/lib/prometheus/node-exporter/trimtab.prom";
    let checked = m.try_sh(&format!("promtool check metrics < {file}"));
    assert!(checked.code == 0 && checked.err.is_empty(), "{checked}");
    let stamp = || m.sh(&format!("stat -c '%i %Y %a' {file}"));
    let (first, number) = (stamp(), || m.sh("trimtab status --json | jq .lastPass.number"));
    assert!(first.ends_with(" 644"), "{first}");
    let before: u64 = number().parse().unwrap();
    eventually("three idle passes", 15, || number().parse::<u64>().unwrap() >= before + 3);
    assert_eq!(stamp(), first, "they write nothing");
    fleet::service(&ana, "one", "2");
    ana.push("Two");
    eventually("news", 30, || stamp() != first);
    assert!(m.sh(&format!("ls -A {}", "/var/lib/prometheus/node-exporter")) == "trimtab.prom");
}

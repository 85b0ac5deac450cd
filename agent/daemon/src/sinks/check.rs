//! Whether what `[[sink]]` says can be meant: checked when agent.toml is read, so that a mistake is found by the person who made it and not
//! at the next outage. The agent and the courier check the same.

use trimtab_model::event::Severity;

use super::{SinkConfig, SinkKind};

/// How many sinks a host may have: each costs a cursor, a back-off and a request for each report.
pub const MAX_SINKS: usize = 16;

/// What is wrong with a sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sink {name:?}: {why}")]
pub struct Flaw {
    /// Which of the sinks, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The key that should change; empty when one is missing.
    pub key: &'static str,
    /// What is wrong and what to do; never a secret.
    pub why: String,
}

/// Checks each sink and that no two have one name.
pub fn check_all(sinks: &[SinkConfig]) -> Result<(), Flaw> {
    for (index, sink) in sinks.iter().enumerate() {
        let flaw = |(key, why): (&'static str, &str)| Flaw { index, name: shown(&sink.name), key, why: why.to_owned() };
        check(sink).map_err(flaw)?;
        if sinks[..index].iter().any(|other| other.name == sink.name) {
            return Err(flaw(("name", "another sink has this name; what was delivered is remembered by name")));
        }
        if index >= MAX_SINKS {
            return Err(flaw(("", "there are more than 16 sinks")));
        }
    }
    Ok(())
}

fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

type Wrong = (&'static str, &'static str);

fn check(sink: &SinkConfig) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if sink.name.is_empty() || sink.name.len() > 64 || !sink.name.chars().all(plain) || sink.name.starts_with('.') {
        return Err(("name", "a name is 1 to 64 of a-z, 0-9, dot, dash and underscore, and does not begin with a dot"));
    }
    url(sink)?;
    if sink.username.is_some() != sink.password_file.is_some() {
        return Err(("", "username and password-file go together"));
    }
    if sink.username.is_some() && sink.token_file.is_some() {
        return Err(("token-file", "use either username with password-file or token-file, not both"));
    }
    if sink.client_cert.is_some() != sink.client_key.is_some() {
        return Err(("", "client-cert and client-key go together"));
    }
    let forge = matches!(sink.kind, SinkKind::Github | SinkKind::Gitlab | SinkKind::Gitea);
    match &sink.repository {
        None if forge => return Err(("", "repository is missing: which one on the forge, such as \"acme/fleet\"")),
        Some(_) if !forge => return Err(("repository", "repository is for the forges only")),
        Some(text) if !text.contains('/') || text.split('/').any(|part| !is_segment(part)) => {
            return Err(("repository", "a repository is written as owner/name"));
        }
        _ => {}
    }
    if forge && sink.token_file.is_none() {
        return Err(("", "token-file is missing: a forge takes no status from strangers"));
    }
    whole(sink)?;
    if !sink.signals.is_empty() && sink.kind != SinkKind::Otlp {
        return Err(("signals", "signals are for type = \"otlp\" only"));
    }
    if sink.hmac_file.is_some() && sink.kind != SinkKind::Webhook {
        return Err(("hmac-file", "hmac-file is for type = \"webhook\" only"));
    }
    Ok(())
}

/// What tells of the host as a whole cannot leave out single resources; a whole report cannot leave out anything.
fn whole(sink: &SinkConfig) -> Result<(), Wrong> {
    const HOST: &str = "what goes there tells of the host as a whole: include and exclude cannot hold";
    const REPORT: &str = "type = \"git\" writes whole reports, which no filter can make smaller";
    let by_resource = [("include", !sink.include.is_empty()), ("exclude", !sink.exclude.is_empty())];
    let told = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, is_told)| *is_told).map(|(key, _)| *key);
    match sink.kind {
        SinkKind::Webhook | SinkKind::Otlp => Ok(()),
        SinkKind::Git if !sink.wants_all() => {
            let all =
                [("severity", sink.severity != Severity::Info), ("kinds", !sink.kinds.is_empty()), by_resource[0], by_resource[1]];
            Err((told(&all).unwrap_or_default(), REPORT))
        }
        _ => told(&by_resource).map_or(Ok(()), |key| Err((key, HOST))),
    }
}

fn is_segment(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn url(sink: &SinkConfig) -> Result<(), Wrong> {
    if sink.kind == SinkKind::Git {
        let told = [
            ("url", !sink.url.is_empty()),
            ("token-file", sink.token_file.is_some()),
            ("username", sink.username.is_some()),
            ("client-cert", sink.client_cert.is_some()),
            ("ca-file", sink.ca_file.is_some()),
            ("proxy", sink.proxy.is_some()),
        ];
        return match told.into_iter().find(|(_, is_told)| *is_told) {
            Some((key, _)) => Err((key, "type = \"git\" writes to the repository of [source], with what is said there")),
            None => Ok(()),
        };
    }
    if sink.url.is_empty() {
        return Err(("", "url is missing: where to send"));
    }
    if sink.url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(("url", "a URL has no blanks and no control characters"));
    }
    let Ok(url) = reqwest::Url::parse(&sink.url) else { return Err(("url", "it is not a valid URL; write https://host/path")) };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("url", "a URL is no place for credentials; use username with password-file, or token-file"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(("url", "it must have no ? and no #: what is secret in it belongs in a file, see token-file"));
    }
    let loopback = match url.host_str() {
        None | Some("") => return Err(("url", "it has no host")),
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()),
    };
    match url.scheme() {
        "http" if !sink.allow_http => {
            Err(("url", "http:// is refused: use https://, or set allow-http = true and accept that others can read along"))
        }
        "http" if !loopback && (sink.token_file.is_some() || sink.password_file.is_some()) => {
            Err(("url", "a password or token is not sent over http://; use https://"))
        }
        "https" | "http" => Ok(()),
        _ => Err(("url", "the scheme must be https or http")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(table: &str) -> Flaw {
        let sink: SinkConfig = toml::from_str(table).unwrap();
        check_all(&[sink]).unwrap_err()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_key_and_no_secret_is_repeated() {
        for (table, key, says) in [
            ("name = 'A b'\ntype = 'webhook'\nurl = 'https://x/'", "name", "a name is 1 to 64"),
            ("name = '.state'\ntype = 'webhook'\nurl = 'https://x/'", "name", "does not begin with a dot"),
            ("name = 'a'\ntype = 'webhook'", "", "url is missing"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'wat'", "url", "not a valid URL"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'ftp://x/'", "url", "https or http"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'http://x/'", "url", "allow-http"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'https://me:geheim@x/'", "url", "no place for credentials"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'https://x/?code=geheim'", "url", "no ? and no #"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'http://x/'\nallow-http = true\ntoken-file = '/t'", "url", "not sent over http"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'https://x/'\nusername = 'me'", "", "go together"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'https://x/'\nclient-key = '/k'", "", "go together"),
            ("name = 'a'\ntype = 'webhook'\nurl = 'https://x/'\nrepository = 'a/b'", "repository", "forges only"),
            ("name = 'a'\ntype = 'github'\nurl = 'https://x/'", "", "repository is missing"),
            ("name = 'a'\ntype = 'gitea'\nurl = 'https://x/'\nrepository = 'a/../b'", "repository", "owner/name"),
            ("name = 'a'\ntype = 'gitlab'\nurl = 'https://x/'\nrepository = 'a/b'", "", "token-file is missing"),
            (
                "name = 'a'\ntype = 'gitlab'\nurl = 'https://x/'\nrepository = 'a/b'\ntoken-file = '/t'\nexclude = ['x']",
                "exclude",
                "as a whole",
            ),
            ("name = 'a'\ntype = 'alertmanager'\nurl = 'https://x/'\ninclude = ['x']", "include", "as a whole"),
            ("name = 'a'\ntype = 'git'\nseverity = 'error'", "severity", "whole reports"),
            ("name = 'a'\ntype = 'git'\nexclude = ['x']", "exclude", "whole reports"),
            ("name = 'a'\ntype = 'otlp'\nurl = 'https://x/'\nhmac-file = '/k'", "hmac-file", "webhook"),
            ("name = 'a'\ntype = 'git'\nurl = 'https://x/'", "url", "repository of [source]"),
        ] {
            let flaw = flaw(table);
            assert!(flaw.key == key && flaw.why.contains(says), "{table}: {flaw:?}");
            assert!(!flaw.to_string().contains("geheim"), "{flaw}");
        }
        let good = "name = 'a'\ntype = 'webhook'\nurl = 'http://127.0.0.1:8/'\nallow-http = true\ntoken-file = '/t'";
        let sink: SinkConfig = toml::from_str(good).unwrap();
        check_all(std::slice::from_ref(&sink)).unwrap();
        let twice = check_all(&[sink.clone(), sink.clone()]).unwrap_err();
        assert_eq!((twice.index, twice.key), (1, "name"));
        let many: Vec<SinkConfig> = (0..17).map(|n| SinkConfig { name: format!("s{n}"), ..sink.clone() }).collect();
        assert_eq!(check_all(&many).unwrap_err().index, 16);
    }
}

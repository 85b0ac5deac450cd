//! The `[source]` table of agent.toml: where the fleet repository is and how to reach it.
//!
//! Everything is checked when it is read, so that a typo is found at start and not at the next outage. Secrets are named by
//! file, never written into the table, and are read when the courier starts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How to reach the fleet repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceConfig {
    /// `https://…`, `ssh://…`, `user@host:path`, `file:///…` or an absolute path.
    pub url: Location,
    /// Trust only the certificate authorities of this PEM file, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy's URL, or `environment` to take it from `HTTPS_PROXY` and its kin. Without it no proxy is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The user name for HTTP basic authentication, together with `password-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with the password, or the name of a systemd credential (no slash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A file with a bearer token, or the name of a systemd credential (no slash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The client certificate (PEM) for mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Its private key (PEM), or the name of a systemd credential (no slash).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The private key for ssh; without it ssh's own defaults count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_key: Option<PathBuf>,
    /// The known hosts for ssh; without it ssh's own defaults count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_known_hosts: Option<PathBuf>,
    /// Allow `http://`: everybody on the way can read and withhold, though not forge.
    #[serde(default)]
    pub allow_http: bool,
    /// How long the server may be silent.
    #[serde(default = "defaults::idle", with = "span")]
    pub idle_timeout: Duration,
    /// How long one operation may take in all.
    #[serde(default = "defaults::total", with = "span")]
    pub total_timeout: Duration,
    /// How many bytes one operation may download.
    #[serde(default = "defaults::bytes")]
    pub max_bytes: u64,
}

mod defaults {
    use std::time::Duration;

    pub(super) fn idle() -> Duration {
        Duration::from_secs(30)
    }
    pub(super) fn total() -> Duration {
        Duration::from_secs(600)
    }
    pub(super) fn bytes() -> u64 {
        64 << 20
    }
}

/// "5min" in the file, a `Duration` in the type.
mod span {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let span = humantime::parse_duration(&text)
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is not a time such as \"30s\" or \"5min\": {error}")))?;
        if span.is_zero() || span > Duration::from_secs(86_400) {
            return Err(serde::de::Error::custom(format!("{text:?} must be more than nothing and at most a day")));
        }
        Ok(span)
    }
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    /// The text is no location that the courier knows how to reach.
    #[error("url {:?}: {reason}", masked(text))]
    Url {
        /// As written, unless it held a secret.
        text: String,
        /// What is wrong and what to do.
        reason: &'static str,
    },
    /// Two settings do not go together, or one lacks another.
    #[error("[source]: {0}")]
    Settings(&'static str),
}

/// Where the repository is, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `https://` or `http://`.
    Http {
        /// The URL without a trailing slash.
        url: String,
        /// `https`?
        tls: bool,
        /// The host is this machine itself.
        loopback: bool,
    },
    /// `ssh://` or `user@host:path`.
    Ssh {
        /// The user, if named.
        user: Option<String>,
        /// The host.
        host: String,
        /// The port, if named.
        port: Option<u16>,
        /// The repository's path on that host.
        path: String,
    },
    /// `file://` or an absolute path: read in-process, without a git program.
    Local(PathBuf),
}

impl Location {
    /// Parses strictly: what is not understood wholly is refused.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let refuse = |reason| Err(SourceError::Url { text: text.to_owned(), reason });
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("it must not be empty or hold blanks or control characters");
        }
        if text.starts_with('/') {
            return Ok(Self::Local(text.into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Self::scp_like(text) };
        match scheme {
            "http" | "https" => Self::http(text, scheme == "https"),
            "ssh" => Self::ssh(text, rest),
            "file" if rest.starts_with('/') && !rest.contains(['%', '?', '#']) => Ok(Self::Local(rest.into())),
            "file" => refuse("write file:///absolute/path, without a host and without escapes"),
            "git" => refuse("git:// has neither encryption nor authentication; use https:// or ssh://"),
            _ => refuse("the scheme must be https, http, ssh or file"),
        }
    }

    fn http(text: &str, tls: bool) -> Result<Self, SourceError> {
        let refuse = |reason| Err(SourceError::Url { text: text.to_owned(), reason });
        let Ok(url) = reqwest::Url::parse(text) else { return refuse("it is not a valid URL") };
        if !url.username().is_empty() || url.password().is_some() {
            // Not even repeated in the refusal: it would end in the journal.
            return Err(SourceError::Url {
                text: format!("{}://…@{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()),
                reason: "a URL is no place for credentials; use username with password-file, or token-file",
            });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("it must have no ? and no #");
        }
        let loopback = match url.host_str() {
            None | Some("") => return refuse("it has no host"),
            Some("localhost" | "[::1]") => true,
            Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()),
        };
        Ok(Self::Http { url: url.as_str().trim_end_matches('/').to_owned(), tls, loopback })
    }

    fn ssh(text: &str, rest: &str) -> Result<Self, SourceError> {
        let refuse = |reason| Err(SourceError::Url { text: text.to_owned(), reason });
        let Some((authority, path)) = rest.split_once('/') else { return refuse("it has no path; write ssh://user@host/path") };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(SourceError::Url {
                text: format!("ssh://…@{host}/{path}"),
                reason: "a URL is no place for credentials; ssh uses keys, see ssh-key",
            });
        }
        let (host, port) = match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((v6, "")) => (v6, None),
            Some((v6, port)) => (v6, Some(port.strip_prefix(':').unwrap_or("?"))),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port != 0 => Some(port),
            Some(_) => return refuse("the port must be a number from 1 to 65535"),
        };
        // `ssh://host/~user/x` means a path in a home; everything else is absolute.
        let path = if path.starts_with('~') { path.to_owned() } else { format!("/{path}") };
        Self::checked_ssh(text, user, host, port, &path)
    }

    fn scp_like(text: &str) -> Result<Self, SourceError> {
        let Some((authority, path)) = text.split_once(':') else {
            return Err(SourceError::Url {
                text: text.to_owned(),
                reason: "write https://host/path, ssh://user@host/path, user@host:path or an absolute path",
            });
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Self::checked_ssh(text, user, host, None, path)
    }

    fn checked_ssh(text: &str, user: Option<&str>, host: &str, port: Option<u16>, path: &str) -> Result<Self, SourceError> {
        let refuse = |reason| Err(SourceError::Url { text: text.to_owned(), reason });
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:%".contains(&b));
        // A leading dash would be read by ssh as an option.
        if !plain(host) || host.starts_with('-') || user.is_some_and(|user| !plain(user) || user.starts_with('-')) {
            return refuse("user and host must be plain names, not starting with a dash");
        }
        if path.is_empty() || path == "/" || path.starts_with('-') {
            return refuse("it needs a path to a repository, not starting with a dash");
        }
        Ok(Self::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => f.write_str(url),
            Self::Ssh { user, host, port, path } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                match path.strip_prefix('/') {
                    Some(path) => write!(f, "ssh://{user}{host}{port}/{path}"),
                    None if path.starts_with('~') => write!(f, "ssh://{user}{host}{port}/{path}"),
                    None => write!(f, "{user}{host}:{path}"),
                }
            }
            Self::Local(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The text as it may be shown: what somebody wrote before the `@` of a URL may be a password. Every byte stays where it was.
pub(crate) fn masked(text: &str) -> String {
    let mut shown = text.to_owned();
    let mut from = 0;
    while let Some(at) = shown[from..].find("://").map(|at| from + at + 3) {
        let end = shown[at..].find(['/', '"', '\'', '\n']).map_or(shown.len(), |end| at + end);
        let secret = shown[at..end].rfind('@').map_or(at, |sign| at + sign);
        shown.replace_range(at..secret, &"*".repeat(secret - at));
        from = at;
    }
    shown
}

impl SourceConfig {
    /// A source with nothing but its location, everything else at its default.
    pub fn new(url: Location) -> Self {
        Self {
            url,
            ca_file: None,
            proxy: None,
            username: None,
            password_file: None,
            token_file: None,
            client_cert: None,
            client_key: None,
            ssh_key: None,
            ssh_known_hosts: None,
            allow_http: false,
            idle_timeout: defaults::idle(),
            total_timeout: defaults::total(),
            max_bytes: defaults::bytes(),
        }
    }

    /// Whether the settings go together. To be asked once, after reading them.
    pub fn check(&self) -> Result<(), SourceError> {
        let refuse = |reason| Err(SourceError::Settings(reason));
        let secrets = self.password_file.is_some() || self.token_file.is_some();
        if let Location::Http { tls: false, loopback, .. } = self.url {
            if !self.allow_http {
                return refuse("http:// is refused: use https://, or set allow-http = true and accept that others can read along");
            }
            if secrets && !loopback {
                return refuse("a password or token is not sent over http://; use https://");
            }
        }
        if self.username.is_some() != self.password_file.is_some() {
            return refuse("username and password-file go together");
        }
        if self.username.is_some() && self.token_file.is_some() {
            return refuse("use either username with password-file or token-file, not both");
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            return refuse("client-cert and client-key go together");
        }
        if secrets && !matches!(self.url, Location::Http { .. }) {
            return refuse("password-file and token-file are for https:// only");
        }
        if self.max_bytes < 64 << 10 {
            return refuse("max-bytes must be at least 65536");
        }
        Ok(())
    }

    /// How long to wait for the courier: somewhat longer than its own total time, so that it can still say why.
    pub fn patience(&self) -> Duration {
        self.total_timeout + Duration::from_secs(10)
    }

    /// The path of a secret: a bare name is a systemd credential.
    pub fn secret_path(named: &Path) -> PathBuf {
        let bare = named.components().count() == 1 && !named.as_os_str().as_encoded_bytes().contains(&b'/');
        match std::env::var_os("CREDENTIALS_DIRECTORY") {
            Some(directory) if bare => Path::new(&directory).join(named),
            _ => named.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_reads_back_as_it_was_written() {
        for text in [
            "https://git.example/fleet.git",
            "http://127.0.0.1:8080/fleet",
            "ssh://git@git.example:2222/srv/fleet.git",
            "ssh://[fe80::1]/srv/fleet.git",
            "ssh://git.example/~ops/fleet",
            "git@git.example:ops/fleet.git",
            "/srv/git/fleet.git",
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Location::parse("file:///srv/x").unwrap(), Location::Local("/srv/x".into()));
    }

    #[test]
    fn what_is_odd_is_refused() {
        for text in [
            "",
            "fleet",
            "./fleet",
            "ftp://x/y",
            "git://x/y",
            "file://host/x",
            "https://",
            "https://x/y?z",
            "https://x y",
            "ssh://host",
            "ssh://-oProxyCommand=x/y",
            "-oProxyCommand=x:y",
            "ssh://host:0/x",
            "ssh://host:x/y",
            "host:-x",
            "a b@c:d",
        ] {
            assert!(Location::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for text in ["https://bob:hunter2@git.example/x", "https://hunter2@git.example/x", "ssh://bob:hunter2@git.example/x"] {
            let message = Location::parse(text).unwrap_err().to_string();
            assert!(message.contains("no place for credentials") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn the_table_is_strict_and_has_defaults() {
        let config: SourceConfig = toml::from_str("url = 'https://x/y'\nidle-timeout = '5s'").unwrap();
        assert_eq!((config.idle_timeout, config.total_timeout), (Duration::from_secs(5), Duration::from_secs(600)));
        assert!(toml::from_str::<SourceConfig>("url = 'https://x/y'\nca_file = '/x'").is_err());
        assert!(toml::from_str::<SourceConfig>("url = 'https://x/y'\nidle-timeout = '0s'").is_err());
        assert!(toml::from_str::<SourceConfig>("url = 'https://x/y'\nidle-timeout = 5").is_err());
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        for (table, expected) in [
            ("url = 'http://x/y'", "allow-http"),
            ("url = 'http://x/y'\nallow-http = true\ntoken-file = '/t'", "not sent over http"),
            ("url = 'https://x/y'\nusername = 'a'", "go together"),
            ("url = 'https://x/y'\nclient-cert = '/a'", "go together"),
            ("url = '/x'\ntoken-file = '/a'", "for https:// only"),
        ] {
            let message = toml::from_str::<SourceConfig>(table).unwrap().check().unwrap_err().to_string();
            assert!(message.contains(expected), "{table}: {message}");
        }
    }
}

//! `lockstep://host:port,host2:port/name?zone=a`: where the cluster is to be found.

use std::time::Duration;

use lockstep_proto::error::Code;

use crate::core::ClientOptions;
use crate::error::{Error, Result};

/// The port of management servers where an address names none.
pub const PORT: u16 = 1186;

const SCHEME: &str = "lockstep://";

/// Reads a URL into options. `zone`, `host`, `deadline_ms` and `arbitrator` may follow a question
/// mark; the path is a name for people and means nothing.
pub(crate) fn parse(url: &str) -> Result<ClientOptions> {
    let bad = |why: &str| Error::new(Code::BadAddress, format!("{why} in {url:?}"));
    let rest = url.strip_prefix(SCHEME).ok_or_else(|| bad("no lockstep:// in front"))?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts = place.split_once('/').map_or(place, |(hosts, _name)| hosts);
    let mut options = ClientOptions::default();
    for host in hosts.split(',') {
        options.addresses.push(address(host).ok_or_else(|| bad("no host, or a wrong port,"))?);
    }
    for setting in query.split('&').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').ok_or_else(|| bad("a setting without ="))?;
        match name {
            "zone" => options.zone = value.to_owned(),
            "host" => options.host = value.to_owned(),
            "arbitrator" => options.arbitrator = Some(value.to_owned()),
            "deadline_ms" => {
                let ms = value.parse().map_err(|_| bad("a deadline that is no number"))?;
                options.deadline = Duration::from_millis(ms);
            }
            _ => {
                let why = format!("no such setting {name:?} (zone, host, deadline_ms, arbitrator)");
                return Err(bad(&why));
            }
        }
    }
    Ok(options)
}

/// `host`, `host:port` or `[v6]:port`, with a port in any case.
pub(crate) fn address(text: &str) -> Option<String> {
    let bare_v6 = text.starts_with('[') && text.ends_with(']');
    match text.rsplit_once(':') {
        Some((host, port)) if !bare_v6 => {
            let port: u16 = port.parse().ok()?;
            let plain = !host.is_empty() && (host.starts_with('[') || !host.contains(':'));
            plain.then(|| format!("{host}:{port}"))
        }
        _ if text.is_empty() => None,
        _ => Some(format!("{text}:{PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_hosts_ports_and_settings() {
        let options =
            parse("lockstep://one,two:7,[::1]:8,[::2]/bank?zone=a&deadline_ms=50").unwrap();
        assert_eq!(options.addresses, ["one:1186", "two:7", "[::1]:8", "[::2]:1186"]);
        assert_eq!((options.zone.as_str(), options.deadline.as_millis()), ("a", 50));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_words() {
        for url in [
            "one:7",
            "lockstep://",
            "lockstep://one,",
            "lockstep://one:port",
            "lockstep://one:99999",
            "lockstep://:7",
            "lockstep://::1",
            "lockstep://one?zone",
            "lockstep://one?zome=a",
            "lockstep://one?deadline_ms=soon",
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.error_code(), Code::BadAddress, "{url}");
            assert!(error.to_string().contains(url), "{error}");
        }
    }
}

//! Where a handler may call, and where a name may lead.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use http::Uri;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The origins that a handler may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Every one.
    All,
    /// These, as (scheme, host, port).
    Only(BTreeSet<(String, String, u16)>),
}

/// An origin cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write scheme, host and port, as in http://10.0.0.5:8080, or \"all\""
)]
pub struct OriginError(String);

impl Origins {
    pub(crate) fn parse<'a>(
        origins: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, OriginError> {
        let mut only = BTreeSet::new();
        for text in origins {
            if matches!(text, "all" | "*") {
                return Ok(Self::All);
            }
            let uri: Uri = text.parse().map_err(|_| OriginError(text.to_owned()))?;
            let path_is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
            match origin(&uri) {
                Some(origin) if path_is_bare => only.insert(origin),
                _ => return Err(OriginError(text.to_owned())),
            };
        }
        Ok(Self::Only(only))
    }

    pub(crate) fn allow(&self, uri: &Uri) -> bool {
        match (self, origin(uri)) {
            (_, None) => false,
            (Self::All, Some(_)) => true,
            (Self::Only(only), Some(origin)) => only.contains(&origin),
        }
    }
}

/// An origin as it is written in `allow.http`; user names and paths stay out of the log.
pub(super) fn shown(uri: &Uri) -> String {
    match origin(uri) {
        Some((scheme, host, port)) => format!("{scheme}://{host}:{port}"),
        None => "what is no http or https address".to_owned(),
    }
}

fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let port = authority.port_u16().unwrap_or(default);
    (!host.is_empty()).then_some((scheme, host, port))
}

/// Whether a name may lead there. An operator who means such an address writes
/// it as an address; a name that leads there was bent by its DNS server.
fn surprising(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => surprising(IpAddr::V4(v4)),
            None => {
                v6.is_loopback()
                    || v6.is_unicast_link_local()
                    || v6.is_unspecified()
                    || v6.is_multicast()
            }
        },
    }
}

/// The addresses that `host` may lead to; it may be named itself.
fn admitted(
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> impl Iterator<Item = SocketAddr> {
    let local = host.eq_ignore_ascii_case("localhost");
    found.filter(move |address| local || !surprising(address.ip()))
}

/// Why a name is not followed.
pub(super) const NO_GOOD_ADDRESS: &str = "leads to no address that a name may lead to";

/// Looks names up and leaves out where they may not lead.
pub(super) struct CheckedResolver;

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let good: Vec<_> = admitted(&host, found).collect();
            if good.is_empty() {
                return Err(format!("{host} {NO_GOOD_ADDRESS}").into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &[&str], uri: &str) -> bool {
        let origins = Origins::parse(origins.iter().copied()).unwrap();
        origins.allow(&uri.parse().unwrap())
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(!allows(&[], "http://10.0.0.5:8080/"));
        assert!(allows(&["all"], "https://example.com/x"));
    }

    #[test]
    fn scheme_host_and_port_all_count() {
        let origins = ["http://plc.local:8080", "https://Example.com"];
        assert!(allows(&origins, "http://PLC.local:8080/a?b"));
        assert!(allows(&origins, "https://example.com:443/"));
        assert!(allows(&origins, "https://example.com./"));
        assert!(!allows(&origins, "https://plc.local:8080/"));
        assert!(!allows(&origins, "http://plc.local/"));
        assert!(!allows(&origins, "http://example.com/"));
        assert!(!allows(&origins, "http://plc.local:8080@evil.example/"));
        assert!(!allows(&origins, "http://u@plc.local:8080/"));
    }

    #[test]
    fn refuses_what_is_no_origin() {
        for bad in [
            "example.com",
            "ftp://a",
            "http://a/path",
            "http://",
            "http://u@a",
        ] {
            assert!(Origins::parse([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_may_not_lead_to_the_node_itself_or_to_link_local() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(surprising(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.5", "192.168.1.1", "93.184.216.34", "fd00::5"] {
            assert!(!surprising(good.parse().unwrap()), "{good}");
        }
        let found = ["127.0.0.1:0", "10.0.0.5:0", "[::1]:0"].map(|a| a.parse().unwrap());
        let left = |host| admitted(host, found.into_iter()).collect::<Vec<_>>();
        assert_eq!(left("bent.example"), [found[1]]);
        assert_eq!(left("localhost"), found);
    }
}

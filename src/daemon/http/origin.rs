//! Protection against other web sites: a page in the user's browser may send requests to this machine.
//!
//! A site that lets its own name resolve to this machine (DNS rebinding) sends that name in `Host`; one that uses this machine's address
//! sends its name in `Origin`.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};

/// Accepts a request that is addressed to an IP address, to `localhost`, or to a name that no public site can have, and that no other
/// site's page has sent.
pub(super) fn check(headers: &HeaderMap<HeaderValue>) -> Result<(), &'static str> {
    // Programs other than browsers may omit it.
    let Some(host) = headers.get(HOST) else { return Ok(()) };
    let host = host.to_str().map_err(|_| "the Host header is not text")?;
    let name = name_of(host);
    let local = name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".local") || name.ends_with(".localhost");
    if !local {
        return Err("the Host header must be an IP address, a name without a dot, or a name in .local");
    }
    match headers.get(ORIGIN).map(HeaderValue::to_str) {
        None => Ok(()),
        Some(Ok(origin)) if origin.split_once("://").is_some_and(|(_, from)| from == host) => Ok(()),
        Some(_) => Err("requests from other sites are rejected"),
    }
}

/// The host without its port and brackets.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check(&headers).is_ok()
    }

    #[test]
    fn pages_of_other_sites_and_rebound_names_are_rejected() {
        for host in
            ["127.0.0.1:9475", "localhost:9475", "[::1]:9475", "192.168.1.7", "raspberrypi:9475", "raspberrypi.local:9475"]
        {
            assert!(accepted(host, None), "{host}");
            assert!(accepted(host, Some(&format!("http://{host}"))), "{host}");
            assert!(!accepted(host, Some("https://site.example")) && !accepted(host, Some("null")), "{host}");
        }
        for host in ["site.example", "127.0.0.1.site.example:9475", "local.example", "raspberrypi.local.site.example"] {
            assert!(!accepted(host, None), "{host}");
        }
        assert!(check(&HeaderMap::new()).is_ok());
    }
}

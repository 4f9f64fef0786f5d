//! The paths of the HTTP server. A new one is an arm in [`Routes::respond`].

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use super::super::metrics::Metrics;
use super::super::status::Status;
use super::connections::Slot;
use super::keywords::KeywordAccess;
use super::origin;
use super::stream::EventStream;
use crate::drawing;

pub(super) type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// The page, with the code that it shares with reports in the places of these names.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("live.html").replacen("/* layers.css */", drawing::STYLE, 1).replacen("// layers.js", drawing::SCRIPT, 1)
});
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const EVENT_STREAM: &str = "text/event-stream";

/// What the server answers from.
pub(super) struct Routes {
    status: Arc<Status>,
    metrics: Metrics,
    keywords: KeywordAccess,
}

impl Routes {
    pub fn new(status: Arc<Status>, keywords: KeywordAccess) -> Self {
        Self { metrics: Metrics::new(status.clone()), status, keywords }
    }

    pub async fn respond(&self, request: Request<Incoming>, slot: &Slot) -> Response<Body> {
        if request.uri().path() == "/keywords" {
            return self.keywords.respond(request).await;
        }
        self.read(&request, slot)
    }

    fn read(&self, request: &Request<Incoming>, slot: &Slot) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => page(request),
            "/metrics" => self.metrics(),
            "/healthz" => self.health(),
            "/events" => self.events(request, slot),
            _ => text(StatusCode::NOT_FOUND, "not found; available paths: /, /events, /healthz, /keywords, /metrics"),
        }
    }

    fn metrics(&self) -> Response<Body> {
        match self.metrics.text() {
            Ok(metrics) => full(StatusCode::OK, prometheus_client::encoding::prometheus_text::CONTENT_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot encode the metrics: {error}")),
        }
    }

    /// Server-sent events.
    fn events(&self, request: &Request<Incoming>, slot: &Slot) -> Response<Body> {
        if let Err(reason) = origin::check(request.headers()) {
            return text(StatusCode::FORBIDDEN, reason);
        }
        if *request.method() == Method::HEAD {
            return full(StatusCode::OK, EVENT_STREAM, Bytes::new());
        }
        if !slot.become_stream() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many event streams; close another page");
        }
        respond_with(StatusCode::OK, EVENT_STREAM, EventStream::new(&self.status, slot.clone()).boxed())
    }

    fn health(&self) -> Response<Body> {
        let code = if self.status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let failed = if self.status.consumer_has_failed() { "; a consumer has failed, see the log" } else { "" };
        text(code, &format!("{}{failed}", self.status))
    }
}

/// The live page, which loads nothing from anywhere and connects only to this server.
fn page(request: &Request<Incoming>) -> Response<Body> {
    if let Err(reason) = origin::check(request.headers()) {
        return text(StatusCode::FORBIDDEN, reason);
    }
    let mut response = full(StatusCode::OK, HTML, PAGE.as_str());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

pub(super) fn text(code: StatusCode, line: &str) -> Response<Body> {
    full(code, TEXT, format!("{line}\n"))
}

pub(super) fn full(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    respond_with(code, content_type, Full::new(body.into()).boxed())
}

fn respond_with(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

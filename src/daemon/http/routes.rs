//! The paths of the HTTP server. A new one is an arm in [`Routes::respond`].

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::super::metrics::Metrics;
use super::super::status::Status;
use super::connections::Slot;

pub(super) type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

const TEXT: &str = "text/plain; charset=utf-8";

/// What the server answers from.
pub(super) struct Routes {
    status: Arc<Status>,
    metrics: Metrics,
}

impl Routes {
    pub fn new(status: Arc<Status>) -> Self {
        Self { metrics: Metrics::new(status.clone()), status }
    }

    pub fn respond(&self, request: &Request<Incoming>, _slot: &Slot) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => self.health(),
            _ => text(StatusCode::NOT_FOUND, "not found; available paths: /metrics, /healthz"),
        }
    }

    fn metrics(&self) -> Response<Body> {
        match self.metrics.text() {
            Ok(metrics) => full(StatusCode::OK, prometheus_client::encoding::prometheus_text::CONTENT_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot encode the metrics: {error}")),
        }
    }

    fn health(&self) -> Response<Body> {
        let code = if self.status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(code, &self.status.to_string())
    }
}

fn text(code: StatusCode, line: &str) -> Response<Body> {
    full(code, TEXT, format!("{line}\n"))
}

fn full(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

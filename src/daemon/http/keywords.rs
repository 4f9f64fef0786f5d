//! `/keywords`: the enrolled keywords, and requests to change them.
//!
//! Protected against other web sites in three ways, each of which suffices: the token is in a header that a browser never adds by itself, and
//! that scripts of other sites may set only after a preflight, which is not answered; `Host` and `Origin` are checked; and there are no cookies.

#[cfg(all(feature = "keywords", feature = "files"))]
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::routes::{Body, text};

/// What `/keywords` answers from; nothing if enrolment is off.
#[derive(Clone, Default)]
pub struct KeywordAccess(#[cfg(all(feature = "keywords", feature = "files"))] Option<Arc<super::super::Enrolment>>);

#[cfg(not(all(feature = "keywords", feature = "files")))]
impl KeywordAccess {
    pub(super) fn enabled(&self) -> bool {
        false
    }

    pub(super) async fn respond(&self, _: Request<Incoming>) -> Response<Body> {
        text(StatusCode::NOT_FOUND, OFF)
    }
}

const OFF: &str = "enrolment is off; page-token-file in the configuration turns it on";

#[cfg(all(feature = "keywords", feature = "files"))]
mod enabled {
    use http_body_util::{BodyExt, Limited};
    use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
    use hyper::{HeaderMap, Method};
    use serde_json::{Value, json};

    use super::super::super::Enrolment;
    use super::super::super::enrolment::{Refusal, Request as Change};
    use super::super::origin;
    use super::super::routes::full;
    use super::*;

    const JSON: &str = "application/json";
    /// Largest request.
    const BODY_BYTES: usize = 4096;

    impl From<Arc<Enrolment>> for KeywordAccess {
        fn from(enrolment: Arc<Enrolment>) -> Self {
            Self(Some(enrolment))
        }
    }

    impl KeywordAccess {
        pub(in super::super) fn enabled(&self) -> bool {
            self.0.is_some()
        }

        pub(in super::super) async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
            let Some(enrolment) = &self.0 else { return text(StatusCode::NOT_FOUND, OFF) };
            if let Err(reason) = origin::check(request.headers()) {
                return text(StatusCode::FORBIDDEN, reason);
            }
            if !token(request.headers()).is_some_and(|token| enrolment.authorize(token)) {
                let mut response =
                    text(StatusCode::UNAUTHORIZED, "the token of page-token-file is required: Authorization: Bearer TOKEN");
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return response;
            }
            match *request.method() {
                Method::GET => answer(StatusCode::OK, &json!({ "keywords": enrolment.list() })),
                Method::POST => change(enrolment, request).await,
                _ => {
                    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET or POST");
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
                    response
                }
            }
        }
    }

    async fn change(enrolment: &Arc<Enrolment>, request: Request<Incoming>) -> Response<Body> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().unwrap_or_default().trim() != JSON {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the request must be application/json");
        }
        let Ok(body) = Limited::new(request.into_body(), BODY_BYTES).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is incomplete, or larger than 4096 bytes");
        };
        match serde_json::from_slice::<Change>(&body.to_bytes()) {
            Err(error) => refused(&Refusal::Invalid(format!("not a request: {error}"))),
            // Changes read and write small files, and start a thread at most.
            Ok(change) => match enrolment.handle(change) {
                Ok(None) => answer(StatusCode::OK, &json!({})),
                Ok(Some(warning)) => answer(StatusCode::OK, &json!({ "warning": warning })),
                Err(refusal) => refused(&refusal),
            },
        }
    }

    fn token(headers: &HeaderMap<HeaderValue>) -> Option<&str> {
        headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }

    fn refused(refusal: &Refusal) -> Response<Body> {
        let code = match refusal {
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Absent(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        answer(code, &json!({ "error": refusal.to_string() }))
    }

    fn answer(code: StatusCode, value: &Value) -> Response<Body> {
        full(code, JSON, value.to_string())
    }
}

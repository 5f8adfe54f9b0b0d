//! What is asked and answered over HTTP, and who may ask it.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use meridian_auth::principal::Principal;

use super::health::{self, Phase};
use super::mesh;
use super::nodes::{self, NodesError};
use super::view::View;
use crate::authentication::Authenticator;
use crate::telemetry::family;
use crate::telemetry::metrics::Metrics;

/// One request, from its head to the head of its answer.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// What the routes read. The view is there once the node has opened its data folder.
#[derive(Debug, Clone)]
pub struct Rooms {
    pub phase: Phase,
    pub view: Arc<OnceLock<View>>,
    pub authenticator: Authenticator,
    pub metrics: Metrics,
}

/// How and from where one connection came.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub secure: bool,
    pub host: IpAddr,
}

/// All routes, for connections of one kind.
pub fn router(rooms: Rooms, caller: Caller) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/mesh", get(mesh_status))
        .route("/v1/nodes", get(nodes_list))
        .route("/v1/nodes/{id}/{verb}", post(nodes_wish))
        .layer(from_fn(gate))
        .layer(Extension(caller))
        .with_state(rooms)
}

/// Refuses what no route wants: bodies, and anything but health and metrics without TLS. Bounds the time of the rest.
async fn gate(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    if !caller.secure && request.uri().path().starts_with("/v1") {
        return (StatusCode::FORBIDDEN, "This is answered over TLS only: ask again with https.\n").into_response();
    }
    if request.body().size_hint().exact() != Some(0) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "No request here has a body.\n").into_response();
    }
    match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "The answer took too long.\n").into_response(),
    }
}

async fn healthz(State(rooms): State<Rooms>) -> Response {
    match health::failure(&rooms.phase, rooms.view.get()) {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("failed: {failure}\n")).into_response(),
    }
}

#[derive(serde::Serialize)]
struct Readiness {
    ready: bool,
    missing: Vec<String>,
    /// What the node cannot do for now, though it serves.
    degraded: Vec<String>,
}

async fn readyz(State(rooms): State<Rooms>) -> Response {
    let missing = health::missing(&rooms.phase, rooms.view.get());
    let ready = missing.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { ready, missing, degraded: health::degraded(rooms.view.get()) })).into_response()
}

async fn metrics(State(rooms): State<Rooms>) -> Response {
    let text = family::text(&rooms.metrics.families());
    ([(header::CONTENT_TYPE, family::CONTENT_TYPE)], text).into_response()
}

async fn mesh_status(State(rooms): State<Rooms>, Extension(caller): Extension<Caller>, headers: HeaderMap) -> Response {
    let Some(principal) = authenticated(&rooms.authenticator, &headers).await else {
        rooms.metrics.refused();
        return unauthorized();
    };
    match rooms.view.get() {
        Some(view) => Json(mesh::status(view, &principal, caller.host)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "The node is starting.\n").into_response(),
    }
}

async fn nodes_list(State(rooms): State<Rooms>, Extension(caller): Extension<Caller>, headers: HeaderMap) -> Response {
    match asked(&rooms, &headers).await {
        Ok((view, principal)) => told(nodes::list(&view, &principal, caller.host)),
        Err(refused) => refused,
    }
}

async fn nodes_wish(
    State(rooms): State<Rooms>,
    Extension(caller): Extension<Caller>,
    Path((id, verb)): Path<(u64, String)>,
    headers: HeaderMap,
) -> Response {
    match asked(&rooms, &headers).await {
        Ok((view, principal)) => told(nodes::wish(&view, &principal, caller.host, id, &verb).await.map(|()| true)),
        Err(refused) => refused,
    }
}

async fn asked(rooms: &Rooms, headers: &HeaderMap) -> Result<(View, Principal), Response> {
    let Some(principal) = authenticated(&rooms.authenticator, headers).await else {
        rooms.metrics.refused();
        return Err(unauthorized());
    };
    // What it knows of its region may be old: it may have been taken out.
    if !rooms.phase.is_serving() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "This node does not serve: ask another node of the region.\n").into_response());
    }
    let view = rooms.view.get().cloned();
    view.map(|view| (view, principal)).ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "The node is starting.\n").into_response())
}

fn told<T: serde::Serialize>(result: Result<T, NodesError>) -> Response {
    let error = match result {
        Ok(answer) => return Json(answer).into_response(),
        Err(error) => error,
    };
    let code = match error {
        NodesError::Forbidden(_) => StatusCode::FORBIDDEN,
        NodesError::UnknownVerb => StatusCode::NOT_FOUND,
        NodesError::Refused(_) => StatusCode::CONFLICT,
        NodesError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{error}\n")).into_response()
}

/// The caller says nothing right, or the caller is told nothing: why a token was refused is for our log alone.
fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], Body::empty()).into_response()
}

async fn authenticated(authenticator: &Authenticator, headers: &HeaderMap) -> Option<Principal> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    match authenticator.verify(token.trim()).await {
        Ok(verified) => Some(verified.principal),
        Err(error) => {
            tracing::info!(%error, "a token was refused at the admin listener");
            None
        }
    }
}

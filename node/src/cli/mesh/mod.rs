//! `meridian mesh status`: the whole mesh from every node's own account of itself.

mod merge;
mod words;

use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::output::{Format, json, line};
use super::region::{AdminNode, Place, Target};
use super::{CliError, block_on};
use crate::admin::status::NodeStatus;

pub(super) use merge::{Account, MeshStatus, merge};

/// How long one node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// What the reason begins with where a node has understood and says no.
pub(in crate::cli) const REFUSED: &str = "refused: ";
/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Mesh {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show where topics live, how old and how far behind their mirrors may be, and which nodes do not answer
    Status {
        /// Look again every second until interrupted
        #[arg(long)]
        watch: bool,
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
}

impl Mesh {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Verb::Status { watch, format } = self.verb;
        let place = self.target.place()?;
        if place.admin.is_empty() {
            return Err(CliError::Usage("the --config file names no admin endpoints; add admin = \"host:port,…\"".into()));
        }
        block_on(async {
            let asker = Asker::new(&place)?;
            loop {
                let status = asker.status().await?;
                match format {
                    Format::Json => json(&status)?,
                    Format::Table if watch => line(format_args!("\x1b[2J\x1b[H{}", words::tell(&status)))?,
                    Format::Table => line(words::tell(&status).trim_end())?,
                }
                if !watch {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }
}

/// Asks every node.
#[derive(Debug)]
pub(super) struct Asker {
    http: reqwest::Client,
    place: Place,
}

impl Asker {
    pub(super) fn new(place: &Place) -> Result<Asker, CliError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((*place.tls).clone())
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| CliError::Usage(format!("the admin endpoints cannot be asked: {error}")))?;
        Ok(Asker { http, place: place.clone() })
    }

    pub(super) async fn status(&self) -> Result<MeshStatus, CliError> {
        let token = self.token()?;
        let accounts = join_all(self.place.admin.iter().map(|node| async {
            let said = self.fetch::<NodeStatus>(node, Method::GET, "/v1/mesh", &token).await;
            Account { node: node.clone(), said }
        }));
        Ok(merge(&accounts.await))
    }

    pub(in crate::cli) fn token(&self) -> Result<String, CliError> {
        Ok(self.place.token.read()?)
    }

    /// Every node that can be asked.
    pub(in crate::cli) fn nodes(&self) -> &[AdminNode] {
        &self.place.admin
    }

    /// One node's answer, or in words why there is none.
    pub(in crate::cli) async fn fetch<T: DeserializeOwned>(
        &self,
        node: &AdminNode,
        method: Method,
        path: &str,
        token: &str,
    ) -> Result<T, String> {
        let url = format!("https://{}{path}", node.address);
        let request = self.http.request(method, url).bearer_auth(token);
        let mut response = request.send().await.map_err(|error| reason(&error))?;
        let status = response.status();
        let said = match status.as_u16() {
            200 | 403 | 409 => None,
            401 => Some("it refuses the token".to_owned()),
            status => Some(format!("it answers {status}")),
        };
        if let Some(said) = said {
            return Err(said);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer is larger than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(format!("{REFUSED}{}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer is not understood: {error}"))
    }
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

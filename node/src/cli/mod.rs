//! The command line: one file per noun.

mod acl;
mod certificate;
mod completion;
mod consume;
mod demo;
mod dev;
mod digest;
mod link;
mod mesh;
mod node;
mod output;
mod parent;
mod produce;
mod progress;
mod region;
mod serve;
mod token;
mod topic;

use clap::{Parser, Subcommand};

use crate::client::ClientError;
use crate::config::ConfigError;
use crate::dev::control::ControlError;
use crate::dev::document::DocumentError;
use crate::dev::issuer::IssuerError;
use crate::dev::mesh::DevError;
use crate::logs::LogsError;
use crate::serve::ServeError;
use crate::tls::TlsError;

#[derive(Debug, Parser)]
#[command(name = "meridian", version, about = "A geo-replicated streaming mesh", arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Start three regions, stream a month of flights through them, and show that they agree
    Demo(demo::Demo),
    /// A whole mesh on this machine: regions of real nodes, with certificates and tokens of its own
    Dev(dev::Dev),
    /// One node of a mesh, in the foreground
    Serve(serve::Serve),
    /// Cut and heal the links between regions of a development mesh
    Link(link::Link),
    /// Make, list, describe and delete topics
    Topic(topic::Topic),
    /// Write lines from stdin to a topic
    Produce(produce::Produce),
    /// Read a topic to stdout
    Consume(consume::Consume),
    /// Who may do what
    Acl(acl::Acl),
    /// The state of all regions
    Mesh(mesh::Mesh),
    /// The nodes of a region: list, add, drain, remove
    Node(node::Node),
    /// What a topic holds in a region, as one number to compare
    Digest(digest::Digest),
    /// Tokens of a development mesh's own issuer
    Token(token::Token),
    /// Certificates of a development mesh's own authority
    Certificate(certificate::Certificate),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("--die-with-parent: {0}")]
    Parent(std::io::Error),
    #[error(transparent)]
    Dev(#[from] DevError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Demo(String),
    #[error("interrupted")]
    Interrupted,
    #[error("{failed} records are not known to be stored; the first error: {first}")]
    Undelivered { failed: u64, first: ClientError },
    #[error("cannot read the records: {0}")]
    Records(std::io::Error),
    #[error("cannot write to stdout: {0}")]
    Output(std::io::Error),
    #[error("the token was refused: {0}")]
    Refused(#[from] meridian_auth::jwt::TokenError),
    #[error("cannot read the token: {0}")]
    Input(#[from] std::io::Error),
}

impl Arguments {
    pub fn run(self) -> Result<(), CliError> {
        match self.noun {
            Noun::Dev(dev) => dev.run(),
            Noun::Serve(serve) => serve.run(),
            Noun::Link(link) => link.run(),
            Noun::Demo(demo) => demo.run(),
            Noun::Topic(topic) => topic.run(),
            Noun::Produce(produce) => produce.run(),
            Noun::Consume(consume) => consume.run(),
            Noun::Acl(acl) => acl.run(),
            Noun::Mesh(mesh) => mesh.run(),
            Noun::Node(node) => node.run(),
            Noun::Digest(digest) => digest.run(),
            Noun::Token(token) => token.run(),
            Noun::Certificate(certificate) => certificate.run(),
            Noun::Completion(completion) => completion.run(),
        }
    }
}

impl CliError {
    /// As a shell tells it.
    pub fn exit_code(&self) -> u8 {
        match self {
            // 128 and the signal's number.
            CliError::Interrupted => 130,
            _ => 1,
        }
    }

    /// Whoever read our output has gone, as `| head` does: nothing went wrong.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Runs a command that talks to nodes.
fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(CliError::Runtime)?;
    runtime.block_on(command)
}

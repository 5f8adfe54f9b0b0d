//! The command line: one file per noun.

mod dev;
mod link;
mod serve;
mod token;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::dev::control::ControlError;
use crate::dev::issuer::IssuerError;
use crate::dev::mesh::DevError;
use crate::logs::LogsError;
use crate::serve::ServeError;

#[derive(Debug, Parser)]
#[command(name = "meridian", version, about = "A geo-replicated streaming mesh", arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// A whole mesh on this machine: regions of real nodes, with certificates and tokens of its own
    Dev(dev::Dev),
    /// One node of a mesh, in the foreground
    Serve(serve::Serve),
    /// Cut and heal the links between regions of a development mesh
    Link(link::Link),
    /// Tokens of a development mesh's own issuer
    Token(token::Token),
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
            Noun::Token(token) => token.run(),
        }
    }
}

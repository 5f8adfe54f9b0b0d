//! The command line: one file per noun.

mod token;

use clap::{Parser, Subcommand};

use crate::dev::issuer::IssuerError;

#[derive(Debug, Parser)]
#[command(name = "meridian", version, about = "A geo-replicated streaming mesh", arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Tokens of a development mesh's own issuer
    Token(token::Token),
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
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
            Noun::Token(token) => token.run(),
        }
    }
}

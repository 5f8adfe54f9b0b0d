//! `meridian token issue|verify`: make a token of the development issuer, or judge one as a node would.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use meridian_auth::jwt::{Rules, TOKEN_BYTES_MAX, verify};

use super::CliError;
use crate::client::timestamp;
use crate::dev::issuer::{AUDIENCE, ISSUER, Issuer};

#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a signed token on stdout
    Issue {
        /// Principal's name: the token speaks for User:NAME
        #[arg(long, value_name = "NAME")]
        sub: String,
        /// How long it is valid: a number and s, m or h, 24 h at most
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: u32,
        /// Whom it is meant for
        #[arg(long, value_name = "A", default_value = AUDIENCE)]
        aud: String,
        #[command(flatten)]
        mesh: Mesh,
    },
    /// Judge a token read from stdin by the strict rules of a node, and print whom it speaks for
    Verify {
        #[command(flatten)]
        mesh: Mesh,
    },
}

#[derive(Debug, Args)]
struct Mesh {
    /// Folder of the development mesh; its issuer is made there on first use
    #[arg(long, value_name = "DIR", default_value = "dev-mesh")]
    dev: PathBuf,
}

impl Token {
    pub(super) fn run(self) -> Result<(), CliError> {
        let now_s = meridian_raft::env::Env::real().clock.wall_us() / 1_000_000;
        match self.verb {
            Verb::Issue { sub, ttl, aud, mesh } => {
                println!("{}", Issuer::open(&mesh.dev)?.issue(&sub, &aud, ttl, now_s)?);
            }
            Verb::Verify { mesh } => {
                let issuer = Issuer::open(&mesh.dev)?;
                let mut token = String::new();
                std::io::stdin().take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut token)?;
                let verified = verify(&Rules::new(ISSUER, AUDIENCE), issuer.keys(), token.trim(), now_s)?;
                let until = timestamp::format_ms(verified.expires_at_s.saturating_mul(1_000));
                println!("{} until {until}, key {}", verified.principal, verified.key_id);
            }
        }
        Ok(())
    }
}

/// `90s`, `15m`, `1h` → seconds.
fn parse_ttl(text: &str) -> Result<u32, String> {
    const TTL_S_MAX: u32 = 24 * 60 * 60;
    let explain = || format!("{text:?} is not a number followed by s, m or h");
    let split = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(explain)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return Err(explain()),
    };
    let number: u32 = number.parse().map_err(|_| explain())?;
    match number.checked_mul(factor) {
        Some(seconds) if (1..=TTL_S_MAX).contains(&seconds) => Ok(seconds),
        _ => Err("a token lives between 1s and 24h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_ttl;

    #[test]
    fn a_lifetime_has_a_unit_and_bounds() {
        assert_eq!((parse_ttl("90s"), parse_ttl("15m"), parse_ttl("24h")), (Ok(90), Ok(900), Ok(86_400)));
        for refused in ["", "h", "10", "-1h", "25h", "0s", "1d", "99999999h", "1é"] {
            assert!(parse_ttl(refused).is_err(), "{refused:?}");
        }
    }
}

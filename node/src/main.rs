//! `meridian`: one binary, its nouns and verbs in `cli`.

use std::process::ExitCode;

use clap::Parser;
use meridian::cli::Arguments;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meridian: {error}");
            error.exit_code().into()
        }
    }
}

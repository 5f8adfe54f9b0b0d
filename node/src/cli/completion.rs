//! `meridian completion SHELL`: what a shell needs to complete our commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::Output;
use super::{Arguments, CliError};

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// For example, to have it in this bash: source <(meridian completion bash)
    shell: Shell,
}

impl Completion {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "meridian", &mut script);
        let mut output = Output::new();
        output.write(&script)?;
        output.flush()
    }
}

//! `meridian-chaos`: judges histories of runs against what the mesh promises.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use meridian_chaos::check::{Verdict, judge, tally};
use meridian_chaos::history::{HistoryError, parse};

#[derive(Debug, Parser)]
#[command(name = "meridian-chaos", version, about = "Proves, or refutes, what a mesh promises")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge a history: exit status 0 when it holds, 1 when an anomaly was found or the run proves nothing, 2 when it cannot be read
    Check {
        /// One event a line, JSON; `-` reads standard input
        history: PathBuf,
        /// Acknowledged records below which a run proves nothing
        #[arg(long, default_value_t = 1)]
        acked_min: u64,
        /// Counterexamples to print of each anomaly
        #[arg(long, default_value_t = 3)]
        examples: usize,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    let Command::Check { history, acked_min, examples, format } = Arguments::parse().command;
    let events = open(&history).map_err(HistoryError::from).and_then(|mut input| parse(&mut *input));
    let verdict = match events {
        Ok(events) => judge(&events, acked_min),
        Err(error) => {
            eprintln!("meridian-chaos: {}: {error}", history.display());
            return ExitCode::from(2);
        }
    };
    match format {
        Format::Table => print_table(&verdict, examples),
        Format::Json => println!("{}", serde_json::json!(verdict)),
    }
    if verdict.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn open(path: &PathBuf) -> io::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    Ok(Box::new(BufReader::new(File::open(path)?)))
}

fn print_table(verdict: &Verdict, examples: usize) {
    println!("sent {} · acknowledged {} · failed {} · indeterminate {}", verdict.sent, verdict.acked, verdict.failed, verdict.unknown);
    println!("read {} records, {} readings to the end", verdict.reads, verdict.final_readings);
    for (anomaly, count) in tally(&verdict.findings) {
        println!("{anomaly}: {count}");
        for finding in verdict.findings.iter().filter(|finding| finding.anomaly == anomaly).take(examples) {
            println!("  {}", finding.detail);
        }
    }
    match &verdict.vacuous {
        Some(why) => println!("proves nothing: {why}"),
        None if verdict.findings.is_empty() => println!("holds"),
        None => println!("does not hold"),
    }
}

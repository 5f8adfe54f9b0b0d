//! `meridian-chaos`: lives through seeded disasters, and judges histories of real ones.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use meridian_chaos::check::{Verdict, judge, tally};
use meridian_chaos::history::{HistoryError, parse};
use meridian_chaos::scenario::{self, Plan, Scenario, ScenarioError};
use meridian_chaos::sim::golden::SCENES;
use meridian_chaos::sim::sweep::Sweep;
use meridian_chaos::sim::{Mutations, Run, World, here};

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
    /// Run the deterministic simulator: exit status 0 when every seed holds, 1 at the first that does not
    Sim {
        /// One seed
        #[arg(long, conflicts_with = "seeds")]
        seed: Option<u64>,
        /// Seeds from A up to, not including, B
        #[arg(long, value_name = "A..B", default_value = "1..61", value_parser = parse_seeds)]
        seeds: Range<u64>,
        /// What to simulate
        #[arg(long, value_enum, default_value_t = World::Region)]
        world: World,
        /// Break it on purpose: a finding must follow
        #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Mutations::ALL.iter().map(|(name, _)| *name)))]
        mutation: Option<String>,
        /// Runs at a time, each in a process of its own
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Live through the one seed in this very process, for a debugger, and say as JSON how it ended
        #[arg(long, requires = "seed")]
        here: bool,
        /// Go on behind a seed that does not hold, and report all of them
        #[arg(long)]
        keep_going: bool,
    },
    /// Play the scenes of the golden transcripts and compare what is seen with what is kept: exit status 1 where they differ
    Golden {
        /// Keep what is seen now
        #[arg(long)]
        write: bool,
        /// Where they are kept
        #[arg(long, default_value = "chaos/golden")]
        dir: PathBuf,
    },
    /// Play a scenario on real processes with a real client: exit status 0 when every promise holds, 1 when one does not, 77 when this
    /// machine lacks what it needs
    Run {
        scenario: Scenario,
        /// How long faults go on, seconds
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Records a second
        #[arg(long, default_value_t = 500.0)]
        rate: f64,
        /// The meridian binary [default: beside this one]
        #[arg(long)]
        meridian: Option<PathBuf>,
        /// What foreign-clients sends: JSON lines with a carrier, gzipped
        #[arg(long, default_value = "data/flights-2013-01.jsonl.gz")]
        flights: PathBuf,
        /// Folder for mesh, history and report; removed first
        #[arg(long, default_value = "chaos-run")]
        dir: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { history, acked_min, examples, format } => check(&history, acked_min, examples, format),
        Command::Sim { seed: Some(seed), world, mutation, here: true, .. } => status(here(&Run { world, seed, mutation }).is_ok()),
        Command::Sim { seed, seeds, world, mutation, jobs, keep_going, .. } => {
            let seeds = seed.map_or(seeds, |seed| seed..seed.saturating_add(1));
            let this = std::env::current_exe().unwrap_or_else(|_| "meridian-chaos".into());
            let program = |run: &Run| {
                let mut program = process::Command::new(&this);
                program.args(["sim", "--here"]).args(run.arguments());
                program
            };
            status(Sweep { world, mutation, seeds, jobs, keep_going }.run(program, &mut io::stderr()))
        }
        Command::Golden { write, dir } => golden(&dir, write),
        Command::Run { scenario, seconds, rate, meridian, flights, dir } => {
            let beside = || std::env::current_exe().map(|exe| exe.with_file_name("meridian")).unwrap_or_default();
            let binary = meridian.unwrap_or_else(beside);
            play(Plan { scenario, binary, dir, duration: Duration::from_secs(seconds), rate, flights })
        }
    }
}

fn golden(dir: &Path, write: bool) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for scene in SCENES {
        match if write { scene.write(dir) } else { scene.compare(dir) } {
            Ok(()) => println!("{}: {}", scene.name, if write { "written" } else { "as kept" }),
            Err(error) => {
                println!("{error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

fn play(plan: Plan) -> ExitCode {
    let _ = std::fs::remove_dir_all(&plan.dir);
    let report = plan.dir.join("report.json");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meridian-chaos: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(scenario::run(plan)) {
        Ok(outcome) => {
            println!("{} faults; workload {}; observed {}", outcome.faults.len(), outcome.workload, outcome.observed);
            if outcome.verdict.sent > 0 {
                print_table(&outcome.verdict, 3);
            }
            outcome.broken.iter().for_each(|broken| println!("broken: {broken}"));
            println!("report: {}", report.display());
            if outcome.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(skipped @ ScenarioError::Skipped(_)) => {
            println!("{skipped}");
            ExitCode::from(77)
        }
        Err(error) => {
            eprintln!("meridian-chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

fn status(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `A..B` with A < B.
fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let explain = || format!("{text:?} is not a range A..B with A below B");
    let (from, to) = text.split_once("..").ok_or_else(explain)?;
    let (from, to): (u64, u64) = (from.parse().map_err(|_| explain())?, to.parse().map_err(|_| explain())?);
    if from < to { Ok(from..to) } else { Err(explain()) }
}

fn check(history: &Path, acked_min: u64, examples: usize, format: Format) -> ExitCode {
    let events = open(history).map_err(HistoryError::from).and_then(|mut input| parse(&mut *input));
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

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
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

//! A run in a process of its own. Nothing that one run leaves behind reaches another (tokio numbers the tasks of a whole process, and lets go of
//! a runtime's tasks in an order that follows from their numbers, so that even a runtime of one's own is not enough); whatever ends a process is
//! the end of one run only, and said; and runs need no more of each other than the machine's cores.

use std::io::{self, Write};
use std::panic;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::{Broken, End, Run};

/// A run that has not ended after this time never will: it takes a second at most, on a busy machine a few.
const RUN_MAX: Duration = Duration::from_secs(120);
/// What a run may use of the machine's memory: many times what it needs.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Lives through the run and says on stdout, as one line of JSON, how it ended. This process ends with the first panic of any of its threads and
/// tasks, wherever that would have been caught; so it does when it takes too long.
pub fn here(run: &Run) -> Result<End, Broken> {
    watched(run, Run::live)
}

fn watched(run: &Run, live: impl FnOnce(&Run) -> Result<End, Broken>) -> Result<End, Broken> {
    bound_memory();
    let panicking = run.clone();
    panic::set_hook(Box::new(move |panic| {
        let what = panic.to_string().replace('\n', " ");
        end_with(&panicking, format!("a node panicked: {what}"));
    }));
    let waiting = run.clone();
    thread::spawn(move || {
        thread::sleep(RUN_MAX);
        end_with(&waiting, format!("the run did not end within {RUN_MAX:?}"));
    });
    let lived = live(run);
    tell(&lived);
    lived
}

fn end_with(run: &Run, what: String) -> ! {
    tell(&Err(run.broken(0, what)));
    process::exit(1)
}

fn tell(lived: &Result<End, Broken>) {
    // Nobody listens any more only where whoever asked has ended.
    let line = serde_json::to_string(lived).unwrap_or_default();
    let _ = writeln!(io::stdout(), "\n{line}");
}

fn bound_memory() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(MEMORY_BYTES_MAX), maximum: getrlimit(Resource::As).maximum };
    // Without the bound a run is as good, only a runaway one is worse.
    let _ = setrlimit(Resource::As, limit);
}

/// Lives through the run in a process that `program` starts, and that is to call [`here`].
pub fn apart(run: &Run, program: impl Fn(&Run) -> Command) -> Result<End, Broken> {
    let ended = program(run).stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let ended = ended.map_err(|error| run.broken(0, format!("no process for the run: {error}")))?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let told = said.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    told.unwrap_or_else(|| Err(run.broken(0, without_a_word(ended.status, &ended.stderr))))
}

/// What can be said of a process that has not said it itself: an abort, a stack that overflowed, memory that was not there.
fn without_a_word(status: ExitStatus, stderr: &[u8]) -> String {
    let stderr = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("the run aborted ({status}): {}", lines.join(" "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sim::World;

    /// How a process that one of the tests starts from this very program is told which run it is for.
    const RUN: &str = "MERIDIAN_CHAOS_RUN";

    #[test]
    #[ignore = "the process of a run that another test starts"]
    fn one_run() {
        let Ok(run) = std::env::var(RUN) else { return };
        drop(here(&serde_json::from_str(&run).expect("a run")));
    }

    #[test]
    #[ignore = "the process of a run that another test starts"]
    fn one_panic() {
        let Ok(run) = std::env::var(RUN) else { return };
        struct Worse;
        impl Drop for Worse {
            fn drop(&mut self) {
                panic!("the second, which nothing survives");
            }
        }
        let panics = |run: &Run| {
            let caught = thread::spawn(|| {
                let _worse = Worse;
                panic!("the first,\nin a thread");
            });
            drop(caught.join());
            Err(run.broken(7, "nobody was told".to_owned()))
        };
        drop(watched(&serde_json::from_str(&run).expect("a run"), panics));
    }

    fn this_program(run: &Run, test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", &format!("sim::process::tests::{test}"), "--ignored", "--nocapture"]);
        command.env(RUN, serde_json::to_string(run).expect("JSON"));
        command
    }

    /// What runs live in, in tests.
    pub(in crate::sim) fn program(run: &Run) -> Command {
        this_program(run, "one_run")
    }

    #[test]
    fn the_first_panic_is_the_end_of_its_run_wherever_it_would_be_caught() {
        let told = apart(&Run::new(World::Log, 1), |run| this_program(run, "one_panic")).expect_err("it panicked");
        assert!(told.what.starts_with("a node panicked") && told.what.ends_with("the first, in a thread"), "{told}");
    }

    #[test]
    fn a_run_whose_process_is_killed_is_a_finding() {
        let killed = |_: &Run| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo its last words >&2; kill -ABRT $$"]);
            command
        };
        let told = apart(&Run::new(World::Log, 1), killed).expect_err("it was killed");
        assert!(told.what.starts_with("the run aborted (signal: 6") && told.what.ends_with("its last words"), "{told}");
    }

    #[test]
    fn a_run_is_the_same_whatever_ran_before_it() {
        let trace = |world, seed| apart(&Run::new(world, seed), program).map(|end| end.trace).unwrap_or_else(|broken| panic!("{broken}"));
        // Seed 3 of the region once differed where another run, or itself, had come before it in one process; so did 1 and 8.
        for (world, seeds) in [(World::Region, [1, 3, 8, 5]), (World::Log, [3, 14, 159, 1])] {
            let once = seeds.map(|seed| trace(world, seed));
            let mut backwards = seeds;
            backwards.reverse();
            let mut again = backwards.map(|seed| trace(world, seed));
            again.reverse();
            assert_eq!(once, again, "{} {seeds:?}", world.name());
            assert!(once.iter().all(|trace| once.iter().filter(|other| *other == trace).count() == 1), "{once:?}");
        }
    }
}

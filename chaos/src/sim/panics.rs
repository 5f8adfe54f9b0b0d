//! Panics of simulated nodes: each run has a thread of its own, and its first panic is its last word.
//!
//! tokio answers a task's panic by dropping all other tasks of that runtime, and some of their destructors need the runtime: a second panic
//! then, within the first, at which the process would end and all other runs with it. There the thread stops where it stands, and what it holds
//! is given up. Not sooner: who stops in the hook keeps everybody else from changing it, as the test harness does before it ends.

use std::cell::{Cell, RefCell};
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Once, mpsc};
use std::thread;

type LastWord = Box<dyn FnOnce(String)>;

thread_local! {
    /// Where a run that panics says so; none on all other threads.
    static LAST_WORD: RefCell<Option<LastWord>> = const { RefCell::new(None) };
    /// It has been said.
    static SAID: Cell<bool> = const { Cell::new(false) };
}

/// Runs it; the error is what panicked first, and where.
pub(super) fn caught<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| match LAST_WORD.try_with(RefCell::take) {
            Ok(Some(last_word)) => {
                SAID.set(true);
                last_word(panic.to_string().replace('\n', " "));
            }
            _ if SAID.try_with(Cell::get).unwrap_or(false) => stop_at_the_end_of_all(panic),
            _ => before(panic),
        }));
    });
    let (lived, end) = mpsc::channel();
    let panicked = lived.clone();
    let life = move || {
        // Nobody listens any more only where this process ends.
        LAST_WORD.set(Some(Box::new(move |what| drop(panicked.send(Err(what))))));
        let result = run();
        LAST_WORD.take();
        drop(lived.send(Ok(result)));
    };
    thread::Builder::new().name("simulation".to_owned()).spawn(life).map_err(|error| error.to_string())?;
    end.recv().unwrap_or_else(|_| Err("the run ended without a word".to_owned()))
}

/// What unwinds on is left alone. What cannot be unwound would end the process.
fn stop_at_the_end_of_all(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or_default();
    while message.starts_with("panic in a") {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_first_word_and_ends_nothing_else() {
        let told = caught::<()>(|| {
            let first: Result<(), _> = std::panic::catch_unwind(|| panic!("the first"));
            panic!("a second, behind {first:?}");
        });
        assert!(told.is_err_and(|what| what.ends_with("the first")));
        assert_eq!(caught(|| 7), Ok(7));
    }
}

//! Panics of simulated nodes: each run has a thread of its own, and one that panics stops where it stands.
//!
//! tokio answers a task's panic by dropping all other tasks of that runtime, and some of their destructors need the runtime: a second panic
//! then, which ends the process and all other runs with it. So nothing is unwound. The thread and what it holds are given up; findings are few.

use std::cell::RefCell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Once, mpsc};
use std::thread;

type LastWord = Box<dyn FnOnce(String)>;

thread_local! {
    /// Where a run that panics says so; none on all other threads.
    static LAST_WORD: RefCell<Option<LastWord>> = const { RefCell::new(None) };
}

/// Runs it; the error is what panicked first, and where.
pub(super) fn caught<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| match LAST_WORD.try_with(RefCell::take) {
            Ok(Some(last_word)) => stop(panic, last_word),
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

fn stop(panic: &PanicHookInfo<'_>, last_word: LastWord) {
    last_word(panic.to_string().replace('\n', " "));
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsAgain;

    impl Drop for PanicsAgain {
        fn drop(&mut self) {
            panic!("the second");
        }
    }

    #[test]
    fn a_panic_whose_remains_would_panic_again_is_told_and_ends_nothing_else() {
        let told = caught(|| {
            let _remains = PanicsAgain;
            panic!("the first");
        });
        assert!(told.is_err_and(|what| what.ends_with("the first")));
        assert_eq!(caught(|| 7), Ok(7));
    }
}

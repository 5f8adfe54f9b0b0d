//! Panics of simulated nodes, caught with their first message and without noise.

use std::cell::{Cell, RefCell};
use std::panic::{PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CATCHES: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs it; the error is what panicked first, and where.
pub(super) fn caught<T>(run: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, String> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| if CATCHES.get() { note(panic) } else { before(panic) }));
    });
    FIRST.take();
    CATCHES.set(true);
    let result = catch_unwind(run);
    CATCHES.set(false);
    result.map_err(|_| FIRST.take().unwrap_or_default())
}

fn note(panic: &PanicHookInfo<'_>) {
    FIRST.with_borrow_mut(|first| {
        first.get_or_insert_with(|| panic.to_string().replace('\n', " "));
    });
}

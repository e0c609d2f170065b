//! Work that comes up while it is done, as in a walk through folders, for two threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// With fewer things to do, one thread is done before a second one has begun.
const WORTH: usize = 16;

/// Does everything in `todo` and all that comes up meanwhile, in whatever order. The first error ends it.
///
/// # Errors
///
/// What `act` gives.
pub fn work_off<T, E, F>(todo: Vec<T>, act: F) -> Result<(), E>
where
    T: Send,
    E: Send,
    F: Fn(T, &mut Vec<T>) -> Result<(), E> + Sync,
{
    let (mut mine, act) = (todo, &act);
    loop {
        if mine.len() >= WORTH {
            let shared = Mutex::new(std::mem::take(&mut mine));
            let failed = AtomicBool::new(false);
            let work = || take_all(&shared, &failed, act);
            let (first, second) = std::thread::scope(|scope| {
                // Without a second thread this one does everything.
                let second = std::thread::Builder::new().spawn_scoped(scope, work);
                let first = work();
                (first, second.map_or(Ok(()), |second| second.join().unwrap_or(Ok(()))))
            });
            first.and(second)?;
            // What came up when the other had found nothing more to do.
            mine = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        }
        match mine.pop() {
            Some(next) => act(next, &mut mine)?,
            None => return Ok(()),
        }
    }
}

fn take_all<T, E>(
    shared: &Mutex<Vec<T>>,
    failed: &AtomicBool,
    act: &impl Fn(T, &mut Vec<T>) -> Result<(), E>,
) -> Result<(), E> {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let mut more = Vec::new();
    loop {
        let next = lock().pop();
        let Some(next) = next.filter(|_| !failed.load(Ordering::Relaxed)) else { return Ok(()) };
        act(next, &mut more).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        if !more.is_empty() {
            lock().append(&mut more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn everything_is_done_once_however_it_comes_up() {
        for n_first in [0, 1, WORTH, 500] {
            let (n_done, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let done: Result<(), ()> = work_off((0..n_first).collect(), |n, more| {
                n_done.fetch_add(1, Ordering::Relaxed);
                sum.fetch_add(n, Ordering::Relaxed);
                if n < 500 {
                    more.extend([n + 1_000, n + 2_000]);
                }
                Ok(())
            });
            assert_eq!(done, Ok(()));
            assert_eq!(n_done.into_inner(), n_first * 3);
            assert_eq!(sum.into_inner(), (0..n_first).map(|n| 3 * n + 3_000).sum::<usize>());
        }
    }

    #[test]
    fn an_error_ends_it() {
        for n_first in [1, 500] {
            let act = |n: usize, _: &mut Vec<usize>| if n == 0 { Err("zero") } else { Ok(()) };
            assert_eq!(work_off((0..n_first).collect(), act), Err("zero"));
        }
    }
}

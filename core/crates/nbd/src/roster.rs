//! Who is connected: places are taken and given back, counted, waited for, and cut off.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::socket::Socket;

#[derive(Default)]
struct State {
    sockets: HashMap<u64, Arc<Socket>>,
    next: u64,
    closed: bool,
}

/// The connections of a server.
#[derive(Default)]
pub(crate) struct Roster {
    state: Mutex<State>,
    changed: Condvar,
}

/// A connection's place, given back when dropped, also by a panic.
pub(crate) struct Place {
    roster: Arc<Roster>,
    id: u64,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take a place; None once the roster is closed.
    pub(crate) fn enter(self: &Arc<Self>, socket: Arc<Socket>) -> Option<Place> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.sockets.insert(id, socket);
        Some(Place { roster: Arc::clone(self), id })
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().sockets.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Wait until fewer than `limit` places are taken; false once the roster is closed.
    pub(crate) fn wait_for_room(&self, limit: usize) -> bool {
        let mut state = self.lock();
        while !state.closed && state.sockets.len() >= limit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Give no more places.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Wait until no place is taken; false where that is not so by `deadline`.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.sockets.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Do something to every connection.
    pub(crate) fn for_each(&self, act: impl Fn(&Socket)) {
        self.lock().sockets.values().for_each(|socket| act(socket));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let gone = self.roster.lock().sockets.remove(&self.id);
        // Closed outside the lock: ending a TCP connection may take its time.
        drop(gone);
        self.roster.changed.notify_all();
    }
}

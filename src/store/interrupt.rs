//! The end of a wait from another thread. A connection cannot be waited for and watched for something else at once,
//! so the connection is ended.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Ends what the clients that have it do, and will do. Clones are the same one; several clients may share it.
#[derive(Clone, Default)]
pub struct Interrupter(Arc<Switch>);

#[derive(Default)]
struct Switch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    interrupted: bool,
    sockets: Vec<Weak<TcpStream>>,
}

impl Interrupter {
    /// Calls under way return `Error::Interrupted` at once, connecting too, and so does every later one. It does
    /// not wait for them. The name of a host that is being looked up is waited for all the same.
    pub fn interrupt(&self) {
        let mut state = self.0.state.lock();
        state.interrupted = true;
        for socket in state.sockets.drain(..).filter_map(|socket| socket.upgrade()) {
            // One that is not connected any more waits for nothing.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.0.changed.notify_all();
    }

    pub fn is_interrupted(&self) -> bool {
        self.0.state.lock().interrupted
    }

    /// Lets a socket begin to connect, without waiting for it, and ends it at an interruption; None if that was
    /// before. There is no moment between the two in which an interruption would be missed.
    pub fn watch<T>(&self, socket: &Arc<TcpStream>, begin: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.0.state.lock();
        if state.interrupted {
            return None;
        }
        let begun = begin();
        state.sockets.retain(|socket| socket.strong_count() > 0);
        state.sockets.push(Arc::downgrade(socket));
        Some(begun)
    }

    /// Waits for so long, or for an interruption.
    pub fn pause(&self, length: Duration) {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while_for(&mut state, |state| !state.interrupted, length);
    }
}

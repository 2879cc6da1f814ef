//! A thread that hears when a worker calls, and wakes the agent's loop: the loop waits for descriptors, and a
//! word in memory is none. A descriptor that workers write to would be one more to inherit; and a worker that
//! closes what it does not know, and opens something else, would write to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::page::Page;
use crate::sys::dispositions;
use crate::sys::signals::Inbox;

const STACK: usize = 64 << 10;

pub struct Listener {
    page: Arc<Page>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Hears what was rung from the page's beginning on.
    pub fn start(page: &Arc<Page>, inbox: &Arc<Inbox>) -> std::io::Result<Listener> {
        let (page, inbox, over) = (page.clone(), inbox.clone(), Arc::new(AtomicBool::new(false)));
        let (heard_page, heard_over) = (page.clone(), over.clone());
        let listen = move || {
            dispositions::block_all_in_parent();
            let mut heard = 0;
            while !heard_over.load(Ordering::Acquire) {
                let rung = heard_page.rung();
                if rung == heard {
                    heard_page.wait_for_ring(rung);
                } else {
                    heard = rung;
                    inbox.ring();
                }
            }
        };
        let builder = std::thread::Builder::new().name("ice-control".into()).stack_size(STACK);
        let thread = builder.spawn(listen)?;
        Ok(Listener { page, over, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.page.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

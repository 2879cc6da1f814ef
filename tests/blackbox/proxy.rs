//! What stands between agents and their store, and spoils the way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A way to a port of this machine. What goes through it is late, stays where it is, or is cut off, as it is told.
pub struct Proxy {
    pub port: u16,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    /// In milliseconds, in each direction.
    delay: AtomicU64,
    is_silent: AtomicBool,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// How often its connections were ended.
    resets: AtomicU64,
}

impl Proxy {
    pub fn before(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let way = Arc::new(Way::default());
        let shared = way.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let way = shared.clone();
                    thread::spawn(move || way.carry(from, to));
                }
            }
        });
        Proxy { port, way }
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// So many milliseconds, in each direction.
    pub fn delay(&self, milliseconds: u64) {
        self.way.delay.store(milliseconds, Ordering::Relaxed);
    }

    pub fn silence(&self, is_silent: bool) {
        self.way.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Ends all connections.
    pub fn reset(&self) {
        self.way.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// The same, and lets no new one do anything until it is `false` again.
    pub fn cut(&self, cut: bool) {
        self.way.is_cut.store(cut, Ordering::Relaxed);
    }
}

impl Way {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let resets = self.resets.load(Ordering::Relaxed);
        let mut bytes = [0; 16 << 10];
        let _ = from.set_read_timeout(Some(Duration::from_millis(10)));
        let is_open = || !self.is_over.load(Ordering::Relaxed) && !self.is_cut.load(Ordering::Relaxed);
        let goes_on = || is_open() && self.resets.load(Ordering::Relaxed) == resets;
        while goes_on() {
            let length = match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => length,
                Err(_) => continue,
            };
            thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
            while self.is_silent.load(Ordering::Relaxed) && goes_on() {
                thread::sleep(Duration::from_millis(2));
            }
            if !goes_on() || to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        for socket in [from, to] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.way.is_over.store(true, Ordering::Relaxed);
        // The thread that accepts looks up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

//! etcd servers of a test's own, on free ports: gone, with what they wrote, when the test is over however it ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::Etcd;
use super::super::http::Connection;
use super::super::link::Link;
use crate::rendezvous::backend::Backend;
use crate::spec::endpoint::Endpoint;
use crate::spec::rendezvous_options::Options;

/// How long anything may take that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    /// Where it keeps all it has.
    pub dir: PathBuf,
    pub port: u16,
    command: Vec<String>,
    process: Option<Child>,
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn program() -> String {
    std::env::var("LIBICE_TEST_ETCD").ok().filter(|path| !path.is_empty()).unwrap_or("etcd".into())
}

impl Server {
    pub fn start() -> Server {
        Server::with(|_| Vec::new())
    }

    /// With more options; files of theirs may be in its directory. `https` if there is a certificate among them.
    pub fn with(options: impl Fn(&Path) -> Vec<String>) -> Server {
        let [port, peer] = free_ports();
        let server = Server::new("own", port, peer, &[("own", peer)], options);
        server.ready();
        server
    }

    /// Servers that are one etcd.
    pub fn cluster() -> [Server; 3] {
        let [a, b, c, d, e, f] = free_ports();
        let all = [("a", b), ("b", d), ("c", f)];
        let servers = [(a, 0), (c, 1), (e, 2)]
            .map(|(port, at)| Server::new(all[at].0, port, all[at].1, &all, |_| Vec::new()));
        servers.iter().for_each(Server::ready);
        servers
    }

    fn new(
        name: &str,
        port: u16,
        peer: u16,
        cluster: &[(&str, u16)],
        options: impl Fn(&Path) -> Vec<String>,
    ) -> Server {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("libice-etcd-{}-{count}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let options = options(&dir);
        let scheme = if options.iter().any(|option| option == "--cert-file") { "https" } else { "http" };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            cluster.iter().map(|(name, peer)| format!("{name}={}", url(*peer))).collect();
        // The kernel ends it with the thread of the test.
        let mut command: Vec<String> = ["setpriv", "--pdeathsig", "KILL"].map(String::from).into();
        command.push(program());
        for (option, value) in [
            ("--name", name.to_string()),
            ("--data-dir", dir.join("data").display().to_string()),
            ("--listen-client-urls", format!("{scheme}://127.0.0.1:{port}")),
            ("--advertise-client-urls", format!("{scheme}://127.0.0.1:{port}")),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", cluster.join(",")),
        ] {
            command.extend([option.to_string(), value]);
        }
        command.extend(options);
        let mut server = Server { dir, port, command, process: None };
        server.begin();
        server
    }

    fn begin(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Debian has it for 64-bit Arm, too.
        self.process = Some(command.env("ETCD_UNSUPPORTED_ARCH", "arm64").spawn().unwrap());
    }

    /// It serves before long.
    fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        let marker = "ready to serve client requests";
        let log = || String::from_utf8_lossy(&std::fs::read(self.dir.join("log")).unwrap()).into_owned();
        while log().matches(marker).count() <= self.dir.join("restarted").exists() as usize {
            assert!(Instant::now() < deadline, "etcd does not begin to serve:\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As by SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// With what it had when it was killed.
    pub fn restart(&mut self) {
        std::fs::write(self.dir.join("restarted"), "").unwrap();
        self.begin();
        self.ready();
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A way to it, connected.
    pub fn etcd(&self, run_id: &str) -> Etcd {
        let mut etcd = Etcd::new(&self.endpoint(), run_id, &Options::default()).unwrap();
        etcd.connect().unwrap();
        etcd
    }

    /// Asks without taking part in anything.
    pub fn ask(&self, what: &str, body: Value) -> Value {
        let by = Instant::now() + PATIENCE;
        let server = Endpoint::parse(&self.endpoint(), None).unwrap();
        let connection = Connection::open(&server, None, &Default::default(), by).unwrap();
        Link::open(connection, &server, None, by).unwrap().ask(what, body, by).unwrap()
    }

    /// All keys that there are, of whatever job.
    pub fn keys(&self) -> Vec<String> {
        use base64::Engine;
        let all = super::super::api::base64(&[0]);
        let answer = self.ask("kv/range", json!({ "key": all, "range_end": all, "keys_only": true }));
        let pairs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let decode = |text: &str| base64::prelude::BASE64_STANDARD.decode(text).unwrap();
        pairs.iter().map(|pair| String::from_utf8(decode(pair["key"].as_str().unwrap())).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

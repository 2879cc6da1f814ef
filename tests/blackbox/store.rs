//! Area STORE: the store's server and client, each beside the other, raw bytes, and PyTorch's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::free_port;

/// A store in a process of its own.
pub struct Serving {
    child: Child,
    out: BufReader<ChildStdout>,
    pub port: u16,
}

impl Serving {
    pub fn start(t: &Case, arguments: &[&str]) -> Serving {
        let mut command = t.command(program("store"));
        command.arg("serve").args(arguments);
        Serving::of(command)
    }

    /// A program that says its port first and serves until its input ends.
    pub fn of(mut command: Command) -> Serving {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("the port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port: {line}"));
        Serving { child, out, port }
    }

    fn raw(&self) -> Raw {
        Raw::connect(self.port)
    }

    /// Descriptors, and kilobytes of memory.
    fn takes(&self) -> (usize, u64) {
        let pid = self.child.id();
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        (fds, line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number"))
    }

    /// What the server says to a line of its input.
    fn say(&mut self, line: &str) -> String {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").expect("it reads");
        let mut answer = String::new();
        self.out.read_line(&mut answer).expect("an answer");
        answer.trim().to_string()
    }

    /// Stops the process, or lets it go on.
    pub fn stand_still(&self, still: bool) {
        let signal = if still { libc::SIGSTOP } else { libc::SIGCONT };
        assert!(send(self.child.id() as i32, signal));
    }

    /// Ends it as it should end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("its output");
        assert!(self.child.wait().expect("its end").success(), "{rest}");
        assert_eq!(rest.trim(), "freed");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of which every byte is known.
struct Raw(TcpStream);

pub const VALIDATE: [u8; 5] = [0, 0xce, 0xf7, 0x85, 0x3c];

impl Raw {
    fn connect(port: u16) -> Raw {
        let mut raw = Raw::silent(port);
        raw.send(&VALIDATE);
        raw.is_served();
        raw
    }

    /// Has said nothing yet.
    fn silent(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Raw(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it takes what is sent");
    }

    #[track_caller]
    fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.0.read_exact(&mut got).expect("an answer");
        assert_eq!(got, bytes);
    }

    #[track_caller]
    fn is_served(&mut self) {
        self.send(&[13, 1, 2, 3, 4]);
        self.expect(&[1, 2, 3, 4]);
    }

    /// Waits until the server closes the connection; what came before.
    #[track_caller]
    fn closed(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}"),
        }
        rest
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [vec![1], string(key.as_bytes()), string(value)].concat()
}

fn wait_one(key: &str) -> Vec<u8> {
    [vec![6], 1u64.to_le_bytes().to_vec(), string(key.as_bytes())].concat()
}

fn client(t: &Case, port: u16, steps: &str) -> Command {
    let mut command = t.command(program("store"));
    command.args(["127.0.0.1", &port.to_string()]).args(steps.split_whitespace().map(|word| match word {
        "''" => "",
        word => word,
    }));
    command
}

/// What a client says to each of its steps.
#[track_caller]
pub fn answers(t: &Case, port: u16, steps: &str) -> Vec<String> {
    let output = client(t, port, steps).output().expect("a client");
    assert!(output.status.success(), "{steps}: {output:?}");
    String::from_utf8(output.stdout).expect("text").lines().map(|line| line.trim().to_string()).collect()
}

/// The statuses and values of a client's steps, without messages of errors.
#[track_caller]
fn does(t: &Case, port: u16, steps: &str) -> String {
    let plain = |line: String| match line.strip_prefix("ICE_OK") {
        Some(rest) => rest.trim().to_string(),
        None => line.split(' ').next().unwrap_or_default().replace("ICE_ERROR_", ""),
    };
    answers(t, port, steps).into_iter().map(plain).collect::<Vec<_>>().join("|")
}

const NUMBERS: (&str, &str) = ("add n 1 add n 2 add n 3 get n 1 add n -10 get n 1", "1|3|6|6|-4|-4");
const COMPARE_SET: (&str, &str) = (
    "compare_set c wrong x check c compare_set c '' one compare_set c wrong two compare_set c one two get c 1",
    "wrong|0|one|one|two|two",
);
const SEVERAL: (&str, &str) = (
    "multi_set m1,m2 x,yz multi_get m2,m1 1 append m1 b append m1 '' get m1 1 multi_get - 1 check m1,m2 check m1,m3
     check - wait m1,m2 1 wait m1,m3 0.05 wait m3 0 multi_get m1,m3 0.05 set e '' get e 0 get none 0.05 get none 0",
    "|yz x|||xb||1|0|1||TIMEOUT|TIMEOUT|TIMEOUT|||TIMEOUT|TIMEOUT",
);
const DELETE: (&str, &str) = ("set d 1 delete d delete d check d", "|1|0|0");
const PREFIX: (&str, &str) =
    ("prefix a prefix b set key v connect 10 get a/b/key 1 get b/key 0", "||||v|TIMEOUT");
const BARRIER: (&str, &str) =
    ("barrier b 1 1 barrier b 2 0.05 barrier b2 2 0.05 barrier b2 2 5", "||TIMEOUT|");
const QUEUE: (&str, &str) = (
    "len q pop q 0 push q 1 push q two len q check q pop q 0 pop q 1 pop q 0.05 len q check q",
    "0|TIMEOUT|||2|1|1|two|TIMEOUT|0|0",
);
const LIST: (&str, &str) =
    ("set l1 1 append l2 '' add l3 1 prefix p list set a 1 set b 1 list prefix a list", "||1|||||a,b||");
const BROADCAST: (&str, &str) = (
    "broadcast id 2 1 ..... 0.05 broadcast id 2 0 first 1 broadcast id 2 1 ..... 1 broadcast id 2 0 first 1
     broadcast id 2 0 other 1 broadcast id 2 1 .... 1 broadcast id 7 1 ..... 0.05 broadcast id 7 0 again 1
     broadcast id 2 1 ..... 1 broadcast id 5 1 ..... 1 broadcast id 5 0 stale 1 broadcast id 7 3 ..... 1",
    "TIMEOUT|first|first|first|CONFIG|CONFIG|TIMEOUT|again|STALE|STALE|STALE|again",
);

fn store_04_a_number_is_text() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, NUMBERS.0), NUMBERS.1);
    // What is no number ends that connection, and changes nothing.
    assert_eq!(does(&t, server.port, "set x abc add x 1 get x 1 add n 1"), "|STORE|STORE|STORE");
    assert_eq!(does(&t, server.port, "get x 1"), "abc");
    server.end();
}

fn store_05_compare_set() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, COMPARE_SET.0), COMPARE_SET.1);
    server.end();
}

fn store_06_all_that_wait_wake() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let waiting: Vec<Child> = (0..64)
        .map(|_| {
            let steps = format!("add arrived 1 get key 60 barrier all 64 60 ready {}", t.path("over"));
            client(&t, server.port, &steps).stdout(Stdio::piped()).spawn().expect("a client")
        })
        .collect();
    wait_for("64 clients", || does(&t, server.port, "add arrived 0") == "64");
    assert_eq!(does(&t, server.port, "set key now"), "");
    for child in waiting {
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("ICE_OK now"), "{output:?}");
    }
    assert_eq!(t.lines("over").len(), 64);
    server.end();
}

fn store_08_clients_killed_while_they_wait() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let (fds, _) = server.takes();
    let mut first = 0;
    for round in 0..4 {
        // Each begins at once: so many who have not would have to give way to each other.
        let begun = |_| {
            let mut client = Raw::silent(server.port);
            client.send(&VALIDATE);
            client
        };
        let mut clients: Vec<Raw> = (0..2500).map(begun).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            // For a key of all, one of its own, a barrier, a queue.
            match number % 4 {
                0 => client.send(&wait_one("never")),
                1 => client.send(&wait_one(&format!("own/{number}"))),
                2 => {
                    client.send(&[vec![18], string(b"barrier"), (1u64 << 40).to_le_bytes().to_vec()].concat())
                }
                _ => client.send(&set("half", &[7; 3000])[..2000]),
            }
            if number % 100 == 0 && number % 4 == 0 {
                client.is_served();
            }
        }
        drop(clients);
        wait_for("their descriptors are closed", || server.takes().0 == fds);
        let (_, memory) = server.takes();
        if round == 0 {
            first = memory;
        }
        assert!(memory < first + 4096, "{first} KiB after the first 2,500, {memory} now");
    }
    // And processes, by SIGKILL.
    let mut waiting: Vec<Child> = (0..32)
        .map(|_| {
            let steps = "add arrived 1 wait never 100";
            client(&t, server.port, steps).stdout(Stdio::null()).spawn().expect("a client")
        })
        .collect();
    wait_for("32 clients", || does(&t, server.port, "add arrived 0") == "32");
    for child in &mut waiting {
        child.kill().expect("a signal");
        child.wait().expect("its end");
    }
    wait_for("their descriptors are closed", || server.takes().0 == fds);
    assert_eq!(does(&t, server.port, "set never 1 get never 1"), "|1");
    server.end();
}

fn store_09_several_keys_and_append() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, SEVERAL.0), SEVERAL.1);
    assert_eq!(does(&t, server.port, DELETE.0), DELETE.1);
    assert_eq!(does(&t, server.port, BARRIER.0), BARRIER.1);
    assert_eq!(does(&t, server.port, LIST.0), LIST.1);
    server.end();
}

fn store_10_prefixes() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, PREFIX.0), PREFIX.1);
    let mut raw = server.raw();
    raw.send(&[vec![3], string(b"/a/b/key")].concat());
    raw.expect(&string(b"v"));
    server.end();
}

fn store_12_what_is_large_is_intact_or_refused() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let said = answers(&t, server.port, "size v 8388608 get v 10 size v 8388609 size v 67108864 num_keys");
    assert_eq!(said[..2], ["ICE_OK", "ICE_OK (8388608 bytes)"]);
    for refused in &said[2..4] {
        assert!(refused.starts_with("ICE_ERROR_CONFIG") && refused.contains("at most 8388608"), "{refused}");
    }
    assert_eq!(said[4], "ICE_OK 1");
    let key = "k".repeat(8191);
    assert_eq!(
        does(&t, server.port, &format!("set {key} v get {key} 1 set {key}k v num_keys")),
        "|v|CONFIG|2"
    );
    // Any byte, in keys and values, and none.
    let all: Vec<u8> = (0..=255).collect();
    let mut raw = server.raw();
    for key in [&all[..], b""] {
        raw.send(&[vec![1], string(key), string(&all), vec![3], string(key)].concat());
        raw.expect(&string(&all));
    }
    server.end();
}

fn store_14_a_server_that_comes_later() {
    let t = Case::new();
    let port = free_port();
    let steps = format!("connect 60 set k v get k 1 ready {}", t.path("done"));
    let early = client(&t, port, &steps).stdout(Stdio::piped()).spawn().expect("a client");
    let said = answers(&t, port, "connect 0.3");
    assert!(said[0].starts_with("ICE_ERROR_TIMEOUT") && said[0].contains("refused"), "{said:?}");
    let server = Serving::start(&t, &["127.0.0.1", &port.to_string()]);
    assert!(early.wait_with_output().expect("its end").status.success());
    assert_eq!(t.lines("done").len(), 1);
    server.end();
    // What listens and is no store.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("a port").port();
    assert_eq!(does(&t, port, "connect 0.3"), "TIMEOUT");
}

fn store_16_an_end_frees_the_port_and_wakes_those_who_wait() {
    let t = Case::new();
    let port = free_port().to_string();
    for _ in 0..20 {
        let server = Serving::start(&t, &["127.0.0.1", &port]);
        let steps = format!("ready {} wait never 100", t.path("ready"));
        let waiting = client(&t, server.port, &steps).stdout(Stdio::piped()).spawn().expect("a client");
        t.wait_file("ready");
        let taken =
            t.command(program("store")).args(["serve", "127.0.0.1", &port]).output().expect("a server");
        assert!(String::from_utf8_lossy(&taken.stdout).contains("EADDRINUSE"), "{taken:?}");
        server.end();
        let output = waiting.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("ICE_ERROR_STORE") && said.contains(&port), "{said}");
        std::fs::remove_file(t.dir.join("ready")).expect("it is there");
    }
}

fn store_18_it_listens_where_it_is_told() {
    let t = Case::new();
    let connects = |address: &str, port: u16| TcpStream::connect((address, port)).is_ok();
    let loopback = Serving::start(&t, &["127.0.0.1"]);
    assert!(connects("127.0.0.1", loopback.port) && !connects("127.0.0.2", loopback.port));
    let all = Serving::start(&t, &[]);
    assert!(connects("127.0.0.1", all.port) && connects("127.0.0.2", all.port));
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert!(connects("::1", all.port) && !connects("::1", loopback.port));
        let v6 = Serving::start(&t, &["::1"]);
        assert!(connects("::1", v6.port) && !connects("127.0.0.1", v6.port));
        v6.end();
    }
    let refused = t.command(program("store")).args(["serve", "203.0.113.1"]).output().expect("a server");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("EADDRNOTAVAIL"), "{refused:?}");
    loopback.end();
    all.end();
}

fn store_20_queues() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, QUEUE.0), QUEUE.1);
    // Each value goes to one of those who wait, also where one is killed between its wake-up and its pop.
    for _ in 0..100 {
        let (mut first, mut second, mut pusher) = (server.raw(), server.raw(), server.raw());
        first.send(&wait_one("jobs"));
        first.is_served();
        second.send(&wait_one("jobs"));
        second.is_served();
        pusher.send(&[vec![14], string(b"jobs"), string(b"job")].concat());
        first.expect(&[0]);
        drop(first);
        second.expect(&[0]);
        second.send(&[vec![15], string(b"jobs")].concat());
        second.expect(&[&1i64.to_le_bytes()[..], &string(b"job")].concat());
    }
    server.end();
}

fn store_broadcast_of_generations() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    assert_eq!(does(&t, server.port, BROADCAST.0), BROADCAST.1);
    // Those who wait for a generation that is skipped are told, at whatever moment they came.
    for round in 0..20u64 {
        let wait = |generation: u64| {
            let steps = format!("broadcast nccl {generation} 1 ..... 60");
            client(&t, server.port, &steps).stdout(Stdio::piped()).spawn().expect("a client")
        };
        let (stale, fresh) = (wait(3 * round), wait(3 * round + 1));
        let steps = format!("broadcast nccl {} 0 {:05} 1", 3 * round + 1, round);
        assert_eq!(does(&t, server.port, &steps), format!("{round:05}"));
        let said = |child: Child| {
            let output = child.wait_with_output().expect("its end");
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        };
        assert!(said(stale).starts_with("ICE_ERROR_STALE"));
        assert_eq!(said(fresh), format!("ICE_OK {round:05}"));
    }
    server.end();
}

fn store_garbage_harms_nobody_else() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let mut healthy = server.raw();
    let (fds, before) = server.takes();
    let lengths = [8193u64, 1 << 31, 1 << 62, 1 << 63, u64::MAX - 7, u64::MAX];
    let mut bad: Vec<Vec<u8>> =
        vec![vec![0x7f], vec![19], VALIDATE.to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    for opcode in [1u8, 2, 3, 4, 8, 9, 14, 15, 16, 18] {
        bad.extend(lengths.map(|length| [&[opcode][..], &length.to_le_bytes()].concat()));
    }
    for opcode in [5u8, 6, 10, 11] {
        bad.extend(
            [131_073, 1 << 63, u64::MAX].map(|count: u64| [&[opcode][..], &count.to_le_bytes()].concat()),
        );
    }
    bad.push([&set("k", b"")[..10], &(1u64 << 63).to_le_bytes()].concat());
    bad.push([set("t", b"x"), vec![4], string(b"t"), vec![0; 8]].concat());
    for bytes in &bad {
        let mut raw = server.raw();
        raw.send(&[&[13, 9, 9, 9, 9][..], bytes].concat());
        // What was right before it is answered.
        assert_eq!(raw.closed(), [9, 9, 9, 9], "{bytes:?}");
        healthy.is_served();
    }
    for bytes in [&[13u8, 0, 0, 0, 0][..], &[0, 1, 2, 3, 4], b"\x16\x03\x01", b"SSH-2.0-x\r\n"] {
        let mut raw = Raw::silent(server.port);
        raw.send(bytes);
        assert_eq!(raw.closed(), b"");
    }
    // Half requests of all kinds, held open: nobody waits for their other halves.
    let half = set("half", &[1; 100_000]);
    let mut halves: Vec<Raw> = (0..500).map(|_| server.raw()).collect();
    for (number, raw) in halves.iter_mut().enumerate() {
        raw.send(&half[..1 + number * 199]);
        if number % 50 == 0 {
            healthy.is_served();
        }
    }
    for (number, raw) in halves.iter_mut().enumerate() {
        raw.send(&half[1 + number * 199..]);
        raw.is_served();
    }
    // One byte at a time is no different.
    let mut raw = Raw::silent(server.port);
    for byte in [&VALIDATE[..], &set("slow", b"value"), &[3], &string(b"slow")].concat() {
        raw.send(&[byte]);
    }
    raw.expect(&string(b"value"));
    drop((halves, raw));
    wait_for("their descriptors are closed", || server.takes().0 == fds);
    let (_, after) = server.takes();
    assert!(after < before + 32 * 1024, "{before} KiB before, {after} after");
    server.end();
}

fn store_replies_go_to_nobody_else() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let mut healthy = server.raw();
    let mut value = vec![6; 300_000];
    healthy.send(&set("big", &value));
    for round in 0..300u32 {
        // It is gone, with a reset, before its replies can be sent.
        let mut gone = server.raw();
        gone.send(&[13, 7, 7, 7, 7]);
        gone.0.peek(&mut [0]).expect("a reply that it leaves unread");
        gone.send(&[13, 8, 8, 8, 8].repeat(1 + round as usize % 50));
        gone.send(&[vec![3], string(b"big")].concat());
        drop(gone);
        let nonce = round.to_le_bytes();
        healthy.send(&[&[13], &nonce[..]].concat());
        healthy.expect(&nonce);
    }
    value.truncate(0);
    healthy.send(&[vec![3], string(b"none")].concat());
    healthy.expect(&string(&value));
    server.end();
}

fn store_one_that_does_not_take_its_replies() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1", "0", "67108864"]);
    let mut healthy = server.raw();
    healthy.send(&set("big", &vec![5; 8 << 20]));
    healthy.is_served();
    // 100 times 8 MiB are asked for and not read; the server has a part of one in its hands, not all.
    let ask = [vec![3], string(b"big")].concat();
    let mut lazy: Vec<Raw> = (0..4).map(|_| server.raw()).collect();
    for raw in &mut lazy {
        raw.send(&ask.repeat(100));
    }
    for _ in 0..100 {
        healthy.is_served();
    }
    let (_, memory) = server.takes();
    assert!(memory < 200 * 1024, "{memory} KiB");
    // Each reply comes once it is read.
    for raw in &mut lazy {
        let mut whole = vec![0; 8 + (8 << 20)];
        for _ in 0..3 {
            raw.0.read_exact(&mut whole).expect("a reply");
            assert!(whole[8..].iter().all(|byte| *byte == 5));
        }
    }
    server.end();
}

fn store_memory_has_a_limit() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1", "0", "1000000"]);
    let mut healthy = server.raw();
    // Values, keys, queues, waits: whoever goes beyond is cut off, the others are served.
    let kinds: [fn(u32) -> Vec<u8>; 4] = [
        |number| set(&number.to_string(), &[1; 10_000]),
        |number| [vec![14], string(b"q"), string(&number.to_le_bytes().repeat(2500))].concat(),
        |number| [vec![9], string(b"a"), string(&number.to_le_bytes().repeat(2500))].concat(),
        |number| {
            [vec![6], 2u64.to_le_bytes().to_vec(), string(&[7; 8000]), string(&number.to_le_bytes())].concat()
        },
    ];
    for kind in kinds {
        let mut greedy: Vec<Raw> = (0..2).map(|_| server.raw()).collect();
        let mut cut_off = 0;
        for number in 0..400 {
            let raw = greedy.last_mut().expect("one at least");
            let sent = raw.0.write_all(&[kind(number), vec![13, 1, 2, 3, 4]].concat());
            let mut pong = [0; 4];
            if sent.is_err() || raw.0.read_exact(&mut pong).is_err() {
                cut_off += 1;
                greedy.push(server.raw());
            } else if kind(0)[0] == 6 {
                // A wait of its own for each connection.
                greedy.push(server.raw());
            }
        }
        assert!(cut_off > 0);
        healthy.is_served();
    }
    assert!(server.takes().1 < 64 * 1024);
    server.end();
}

fn store_more_clients_than_descriptors() {
    let t = Case::new();
    let mut command = t.command("sh");
    command.args(["-c", "ulimit -n 24; exec \"$0\" serve 127.0.0.1"]).arg(program("store"));
    let server = Serving::of(command);
    let clients: Vec<Raw> = (0..40)
        .map(|_| {
            let mut client = Raw::silent(server.port);
            client.send(&[&VALIDATE[..], &[13, 1, 2, 3, 4]].concat());
            client
        })
        .collect();
    // Those that knock while there is none left are served when others go, in their order.
    for mut client in clients {
        client.expect(&[1, 2, 3, 4]);
    }
    server.end();
}

fn store_few_descriptors_left() {
    let t = Case::new();
    // The server names what it lacks until it has enough, and then serves.
    let mut refusals = 0;
    for limit in 3.. {
        assert!(limit < 32, "it never had enough");
        let command = format!("ulimit -n {limit}; exec \"$0\" serve 127.0.0.1");
        let mut serve = t.command("sh");
        serve.args(["-c", &command]).arg(program("store")).stdin(Stdio::null());
        let output = serve.output().expect("a server");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            break;
        }
        // With too few the program itself cannot start.
        if !said.is_empty() {
            assert!(said.starts_with("ICE_ERROR_SYSTEM") && said.contains("EMFILE"), "{said}");
            refusals += 1;
        }
    }
    assert!(refusals > 0);
    // A client without one says so at once, though it could wait.
    let server = Serving::start(&t, &["127.0.0.1"]);
    let said = answers(&t, server.port, "connect 10 descriptors 3 connect -1");
    assert!(said[1].starts_with("ICE_ERROR_SYSTEM") && said[1].contains("EMFILE"), "{said:?}");
    server.end();
}

fn store_slow_readers_of_large_replies() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1", "0", "300000000"]);
    let mut healthy = server.raw();
    let keys: Vec<String> = (0..8).map(|number| format!("big/{number}")).collect();
    for key in &keys {
        healthy.send(&set(key, &vec![5; 8 << 20]));
    }
    healthy.is_served();
    // One request, 64 MiB of answer; there is memory for some of them, and who is beyond that is cut off.
    let list: Vec<u8> = keys.iter().flat_map(|key| string(key.as_bytes())).collect();
    let ask = [&[10][..], &8u64.to_le_bytes(), &list].concat();
    let mut slow: Vec<Raw> = (0..8).map(|_| server.raw()).collect();
    for raw in &mut slow {
        raw.send(&ask);
        healthy.is_served();
    }
    let (_, memory) = server.takes();
    assert!(memory < 2 * 300_000 + 64 * 1024, "{memory} KiB");
    let (mut whole, mut cut_off) = (0, 0);
    let mut piece = vec![0; 1 << 20];
    for raw in &mut slow {
        let mut left = 8 * (8 + (8 << 20));
        while left > 0 {
            match raw.0.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(length) => left -= length,
            }
            healthy.is_served();
        }
        if left == 0 { whole += 1 } else { cut_off += 1 }
    }
    assert!(whole >= 3 && cut_off >= 1, "{whole} whole, {cut_off} cut off");
    server.end();
}

fn store_requests_that_trickle_in() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let mut healthy = server.raw();
    let mut slow: Vec<Raw> = (0..200).map(|_| server.raw()).collect();
    let requests: Vec<Vec<u8>> = (0..slow.len())
        .map(|number| [set(&format!("slow/{number}"), &[7; 300]), vec![13, 9, 9, 9, 9]].concat())
        .collect();
    for at in 0..requests[199].len() {
        for (raw, request) in slow.iter_mut().zip(&requests) {
            if let Some(byte) = request.get(at) {
                raw.send(&[*byte]);
            }
        }
        healthy.is_served();
    }
    slow.iter_mut().for_each(|raw| raw.expect(&[9, 9, 9, 9]));
    assert_eq!(does(&t, server.port, "num_keys"), "200");
    server.end();
}

const SECRET: &str = "a secret of all the workers";

fn knowing(mut command: Command, secret: &str) -> Command {
    command.env("STORE_SECRET", secret);
    command
}

fn store_a_secret_keeps_others_out() {
    let t = Case::new();
    let mut serve = t.command(program("store"));
    serve.args(["serve", "127.0.0.1"]);
    let mut server = Serving::of(knowing(serve, SECRET));
    let said = |command: Command| {
        let mut command = command;
        let output = command.stdin(Stdio::null()).output().expect("a client");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let steps = "connect -1 set k v get k 1";
    assert_eq!(said(knowing(client(&t, server.port, steps), SECRET)), "ICE_OK \nICE_OK \nICE_OK v");
    // At once, though they would wait for ever, and each says what is wrong.
    for (secret, wrong) in
        [(None, "that its clients must know"), (Some("a secret of nobody else"), "another")]
    {
        let command = client(&t, server.port, "connect -1");
        let refused =
            said(secret.map_or_else(|| client(&t, server.port, "connect -1"), |s| knowing(command, s)));
        assert!(refused.starts_with("ICE_ERROR_CONFIG config error: secret is"), "{refused}");
        assert!(refused.contains(wrong) && refused.contains(&server.port.to_string()), "{refused}");
    }
    let open = Serving::start(&t, &["127.0.0.1"]);
    let refused = said(knowing(client(&t, open.port, "connect -1"), SECRET));
    assert!(refused.starts_with("ICE_ERROR_CONFIG") && refused.contains("has none"), "{refused}");
    // PyTorch's beginning, garbage, a proof of nothing: closed, and counted.
    for bytes in [&[&VALIDATE[..], &[13, 1, 2, 3, 4]].concat()[..], b"GET / HTTP/1.1\r\n\r\n", b"ice 2"] {
        let mut raw = Raw::silent(server.port);
        raw.send(bytes);
        assert!(matches!(&raw.closed()[..], b"ice?" | b""));
    }
    let mut raw = Raw::silent(server.port);
    raw.send(&[&b"ice 1"[..], &[1; 32]].concat());
    let mut challenge = [0; 33];
    raw.0.read_exact(&mut challenge).expect("a challenge");
    raw.send(&challenge[1..]);
    assert_eq!(raw.closed(), [0]);
    let counts = server.say("counts");
    assert!(counts.starts_with("7 connections, 6 refused"), "{counts}");
    open.end();
    server.end();
}

fn store_a_secret_does_not_go_over_the_wire() {
    let t = Case::new();
    // What asks for the secret and does not know it: it gets a proof, and can do nothing with it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    let steps = "connect -1";
    let asked = knowing(client(&t, port, steps), SECRET).stdout(Stdio::piped()).spawn().expect("a client");
    let (mut stream, _) = listener.accept().expect("a client");
    let (mut hello, mut proof) = ([0; 37], [0; 32]);
    stream.read_exact(&mut hello).expect("its beginning");
    stream.write_all(&[&[1][..], &[7; 32]].concat()).expect("it takes that");
    stream.read_exact(&mut proof).expect("its proof");
    // Yes, and its own proof sent back to it.
    stream.write_all(&[&[1][..], &proof].concat()).expect("it takes that");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let all = [&hello[..], &proof, &rest].concat();
    assert!(!all.windows(8).any(|part| SECRET.as_bytes().windows(8).any(|known| known == part)));
    let output = asked.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("ICE_ERROR_CONFIG") && said.contains("without knowing it"), "{said}");
}

fn store_17_the_host_waits_for_its_workers() {
    let t = Case::new();
    let mut server = Serving::start(&t, &["127.0.0.1"]);
    let late = server.say("workers 1 0");
    assert!(late.starts_with("ICE_ERROR_TIMEOUT") && late.contains("0 of 1 workers came"), "{late}");
    let workers: Vec<Child> = (0..8)
        .map(|_| {
            let mut worker = client(&t, server.port, "prefix p arrive wait go 60");
            worker.stdout(Stdio::null()).spawn().expect("a worker")
        })
        .collect();
    assert_eq!(server.say("workers 8 60"), "ICE_OK");
    let late = server.say("workers 9 0.05");
    assert!(late.starts_with("ICE_ERROR_TIMEOUT") && late.contains("8 of 9 workers came"), "{late}");
    // As PyTorch's clients do it, with a barrier as well.
    let mut raw = server.raw();
    raw.send(&[vec![4], string(b"init/"), 1i64.to_le_bytes().to_vec()].concat());
    raw.expect(&9i64.to_le_bytes());
    assert_eq!(server.say("workers 9 60"), "ICE_OK");
    raw.send(&set("/p/go", b""));
    for mut worker in workers {
        assert!(worker.wait().expect("its end").success());
    }
    server.end();
}

fn store_waits_can_be_interrupted() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    for wait in ["get never -1", "wait never 1000", "barrier b 2 -1", "pop q -1", "broadcast b 1 1 x -1"] {
        let steps = format!("interrupt 50 {wait} num_keys");
        let said = answers(&t, server.port, &steps);
        for line in &said {
            assert!(
                line.starts_with("ICE_ERROR_STORE") && line.contains("was interrupted"),
                "{wait}: {said:?}"
            );
        }
        assert_eq!(said.len(), 2);
    }
    assert_eq!(does(&t, server.port, "addresses"), "127.0.0.1 127.0.0.1");
    server.end();
}

/// A worker of a job as its environment says it.
fn worker(t: &Case, rank: usize, size: usize, port: u16, agent: &str, steps: &str) -> Command {
    let mut command = t.command(program("store"));
    command.arg("worker").args(steps.split_whitespace());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("TORCHELASTIC_USE_AGENT_STORE", agent);
    command
}

fn store_workers_meet_at_the_store_of_their_job() {
    let t = Case::new();
    let secret = t.write("secret", format!("{SECRET}\n").as_bytes(), 0o600);
    let server = Serving::start(&t, &["127.0.0.1"]);
    let mut serve = t.command(program("store"));
    serve.args(["serve", "127.0.0.1"]);
    let locked = Serving::of(knowing(serve, SECRET));
    let port = free_port();
    // An agent has it; the same with a secret; rank 0 has it; the same with a secret.
    for (port, agent, secret) in [
        (server.port, "True", None),
        (locked.port, "True", Some(&secret)),
        (port, "False", None),
        (port, "False", Some(&secret)),
    ] {
        let ranks: Vec<Child> = (0..4)
            .map(|rank| {
                let steps = format!("set r{rank} {rank} multi_get r0,r1,r2,r3 60 barrier end 4 60");
                let mut rank = worker(&t, rank, 4, port, agent, &steps);
                rank.envs(secret.map(|path| ("ICE_STORE_SECRET_FILE", path)));
                rank.stdout(Stdio::piped()).spawn().expect("a worker")
            })
            .collect();
        for (number, rank) in ranks.into_iter().enumerate() {
            let output = rank.wait_with_output().expect("its end");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("ICE_OK 0 1 2 3"), "{agent}, rank {number}: {output:?}");
        }
    }
    // Where somebody serves it already rank 0 is a client, too.
    let said = |mut command: Command| {
        let output = command.output().expect("a worker");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    assert_eq!(said(worker(&t, 0, 4, server.port, "False", "get r3 1")), "ICE_OK 3");
    // Alone, without an agent.
    let mut alone = t.command(program("store"));
    alone.args(["worker", "set", "k", "v", "get", "k", "1", "list"]);
    assert_eq!(said(alone), "ICE_OK \nICE_OK v\nICE_OK k");
    let mut lost = t.command(program("store"));
    lost.args(["worker", "num_keys"]).env("WORLD_SIZE", "2");
    let lost = said(lost);
    assert!(lost.starts_with("ICE_ERROR_CONFIG config error: MASTER_ADDR is unset"), "{lost}");
    let mut no_file = worker(&t, 1, 2, server.port, "True", "num_keys");
    no_file.env("ICE_STORE_SECRET_FILE", t.path("none"));
    let no_file = said(no_file);
    assert!(no_file.starts_with("ICE_ERROR_SYSTEM") && no_file.contains(&t.path("none")), "{no_file}");
    let open = t.write("open", SECRET.as_bytes(), 0o604);
    let mut known = worker(&t, 1, 2, server.port, "True", "num_keys");
    let known = said({
        known.env("ICE_STORE_SECRET_FILE", &open);
        known
    });
    assert!(known.starts_with("ICE_ERROR_CONFIG") && known.contains("mode 0604"), "{known}");
    server.end();
    locked.end();
}

fn store_workers_meet_in_every_start_method_and_attempt() {
    for kind in Kind::ALL {
        let t = Case::new();
        // The first attempt fails once all have met; the second one finds nothing of it.
        let verbs = ["meet", &t.path("met"), "attempt", "0", "exit", "1", ";"];
        let host = t.host().set("local_world_size", 3).set("max_restarts", 1);
        host.controlled(kind, &verbs).run().succeeded().clean();
        let mut met = t.lines("met");
        met.sort();
        assert_eq!(met, ["0 6", "0 6", "1 6", "1 6", "2 6", "2 6"], "{}", kind.name());
    }
}

fn store_workers_of_icerun_meet() {
    let t = Case::new();
    let mut icerun = t.command(icerun());
    icerun.args(["--standalone", "--no-python", "--nproc-per-node", "3"]).arg(program("store"));
    icerun.args(["worker", "arrive", "barrier", "b", "3", "60", "ready", &t.path("ready")]);
    let output = icerun.output().expect("icerun");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(t.lines("ready").len(), 3);
}

/// Answers the beginning of a client as a store does, then sends `bytes` for whatever comes, then nothing more.
fn bad_server(bytes: Vec<u8>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut start = [0; 19];
        stream.read_exact(&mut start).expect("VALIDATE, PING, QUEUE_LEN");
        stream.write_all(&[&start[6..10], &[0; 8]].concat()).expect("an answer");
        let mut request = [0; 4096];
        if stream.read(&mut request).is_ok_and(|length| length > 0) {
            let _ = stream.write_all(&bytes);
        }
        while stream.read(&mut request).is_ok_and(|length| length > 0) {}
    });
    port
}

fn store_a_server_that_is_none() {
    let t = Case::new();
    // One that does not answer, in each call that waits for an answer; the calls after it know.
    for call in
        ["add n 1", "get k 9", "check k", "wait k 0.1", "barrier b 2 0.1", "num_keys", "pop q 1", "delete k"]
    {
        let port = bad_server(Vec::new());
        assert_eq!(
            does(&t, port, &format!("connect 0.3 {call} set a b add n 1")),
            "|STORE|STORE|STORE",
            "{call}"
        );
    }
    // Lengths that cannot be, and answers that do not exist.
    for (call, bytes) in [
        ("get k 1", vec![0xff; 8]),
        ("get k 1", [&(1u64 << 62).to_le_bytes()[..], &[1; 1000]].concat()),
        ("check k", vec![7]),
        ("wait k 1", vec![9]),
        ("compare_set k a b", vec![0, 0, 0, 0, 0, 0, 0, 0x80]),
    ] {
        assert_eq!(
            does(&t, bad_server(bytes), &format!("connect 0.3 {call} set a b")),
            "|STORE|STORE",
            "{call}"
        );
    }
}

fn store_its_thread_is_a_polite_guest() {
    let t = Case::new();
    let server = Serving::start(&t, &["127.0.0.1"]);
    let _client = server.raw();
    let pid = server.child.id();
    let task = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten().find(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "ice-store")
    });
    let status = std::fs::read_to_string(task.expect("its thread").path().join("status")).expect("a thread");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a line");
    let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a mask");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGUSR1, libc::SIGPIPE] {
        assert!(blocked & (1 << (signal - 1)) != 0, "signal {signal} is not blocked");
    }
    let mut ours = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten() {
        let number: i32 = entry.file_name().to_string_lossy().parse().expect("a number");
        let what = std::fs::read_link(entry.path()).expect("a descriptor");
        if what.to_string_lossy().starts_with(['s', 'a']) {
            let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("a descriptor");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("a line");
            let flags = i32::from_str_radix(flags.trim(), 8).expect("flags");
            assert!(number > 2 && flags & libc::O_CLOEXEC != 0, "{number}, {what:?}: {info}");
            ours += 1;
        }
    }
    assert!(ours >= 4, "the listener, a client, an eventfd, an epoll: {ours}");
    // Nothing to do: no wake-up.
    let switches = || {
        let path = format!("/proc/{pid}/task");
        let tasks = std::fs::read_dir(path).expect("a process").flatten();
        let count = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).expect("a thread");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|number| number.trim().parse::<u64>().ok()).expect("a number")
        };
        tasks.map(count).sum::<u64>()
    };
    wait_for("no wake-up for a while", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(300));
        switches() == before
    });
    server.end();
}

/// The same calls of PyTorch's client on the store at a port and on one of its own: prints what differs.
const TORCH_CLIENT: &[u8] = br#"
import datetime, sys, threading, warnings
warnings.filterwarnings("ignore")
import torch.distributed as dist

limit = datetime.timedelta(seconds=30)
short = datetime.timedelta(milliseconds=50)
own = dist.TCPStore("127.0.0.1", 0, None, True, limit, wait_for_workers=False)

def calls(port):
    said = []
    store = dist.TCPStore("127.0.0.1", port, None, False, limit, wait_for_workers=False)
    other = store.clone()

    def call(name, *args):
        try:
            said.append((name, args, getattr(store, name)(*args)))
        except Exception as error:
            said.append((name, args, type(error).__name__, str(error).splitlines()[0]))

    def woken(name, args, change):
        thread = threading.Thread(target=lambda: said.append((name, getattr(store, name)(*args))))
        thread.start()
        change()
        thread.join(30)
        assert not thread.is_alive(), name

    for value in ["v", "", "x" * 100000]:
        call("set", "k", value)
        call("get", "k")
    for delta in [5, -7, 2**62, 0]:
        call("add", "n", delta)
    call("get", "n")
    for args in [("c", "wrong", "x"), ("c", "", "A"), ("c", "X", "B"), ("c", "A", "B"), ("c", "", "C")]:
        call("compare_set", *args)
    for keys in [["k"], ["k", "none"], [], ["k"] * 1000]:
        call("check", keys)
    call("wait", ["none"], short)
    call("wait", ["k", "n"], short)
    call("delete_key", "k")
    call("delete_key", "k")
    call("append", "a", "1")
    call("append", "a", "2")
    call("multi_set", ["m1", "m2", "a"], ["x", "y", "z"])
    call("multi_get", ["m2", "a", "m1", "m2"])
    call("multi_get", [])
    said.append(sorted(store.list_keys()))
    call("num_keys")
    woken("get", ("late1",), lambda: other.set("late1", "now"))
    woken("get", ("late2",), lambda: other.add("late2", 1))
    woken("get", ("late3",), lambda: other.append("late3", "z"))
    woken("get", ("late4",), lambda: other.compare_set("late4", "", "q"))
    woken("multi_get", (["late5", "late6"],), lambda: other.multi_set(["late6", "late5"], ["a", "b"]))
    woken("barrier", ("two", 2), lambda: other.barrier("two", 2))
    woken("queue_pop", ("q",), lambda: other.queue_push("q", "item"))
    call("barrier", "three", 3, short)
    call("queue_push", "q", "1")
    call("queue_push", "q", "2")
    call("queue_len", "q")
    call("check", ["q"])
    call("queue_pop", "q")
    call("queue_pop", "q")
    call("queue_pop", "q", False)
    nested = dist.PrefixStore("b", dist.PrefixStore("a", store))
    nested.set("key", "v")
    call("get", "a/b/key")
    # Clients that count themselves; the one that hosts the store would wait for them.
    for _ in range(3):
        dist.TCPStore("127.0.0.1", port, 3, False, limit, wait_for_workers=True)
    call("num_keys")
    call("set", "text", "abc")
    call("add", "text", 1)
    call("get", "text")
    return said

pairs = list(zip(calls(int(sys.argv[1])), calls(own.port), strict=True))
for ours, torchs in pairs:
    if ours != torchs:
        print("ours:", ours, "torch's:", torchs)
print(len(pairs), "compared")
"#;

fn torch(t: &Case, script: &str) -> Command {
    let mut command = t.command(torch_python().expect("a Python with torch"));
    command.env("TORCH_CPP_LOG_LEVEL", "ERROR").arg(script);
    command
}

fn store_01_torchs_client_sees_no_difference() {
    let t = Case::new();
    let script = t.write("client.py", TORCH_CLIENT, 0o644);
    let server = Serving::start(&t, &["127.0.0.1"]);
    let output = torch(&t, &script).arg(server.port.to_string()).output().expect("Python");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "51 compared", "{output:?}");
    server.end();
}

const TORCH_SERVER: &[u8] = br#"
import datetime, sys, warnings
warnings.filterwarnings("ignore")
import torch.distributed as dist

limit = datetime.timedelta(seconds=30)
store = dist.TCPStore("127.0.0.1", 0, None, True, limit, wait_for_workers=False, use_libuv=sys.argv[1] == "libuv")
print(store.port, flush=True)
sys.stdin.read()
print("freed", flush=True)
"#;

fn store_02_torchs_servers_are_no_different() {
    let t = Case::new();
    let script = t.write("server.py", TORCH_SERVER, 0o644);
    for kind in ["libuv", "legacy"] {
        let mut command = torch(&t, &script);
        command.arg(kind);
        let server = Serving::of(command);
        for (steps, said) in [NUMBERS, COMPARE_SET, SEVERAL, DELETE, PREFIX, BARRIER, BROADCAST, LIST] {
            assert_eq!(does(&t, server.port, steps), said, "{kind}");
        }
        // The older one has no queues; the connection stays good.
        let none = "STORE|STORE|STORE|STORE|STORE|0|STORE|STORE|STORE|STORE|0";
        assert_eq!(does(&t, server.port, QUEUE.0), if kind == "libuv" { QUEUE.1 } else { none }, "{kind}");
        server.end();
    }
}

const TORCH_GUEST: &[u8] = br#"
import datetime, sys, warnings
warnings.filterwarnings("ignore")
import torch.distributed as dist

try:
    store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), int(sys.argv[2]), False, datetime.timedelta(seconds=3))
    store.wait(["go"], datetime.timedelta(seconds=60))
    print("went")
except dist.DistError as error:
    print(type(error).__name__)
"#;

fn store_17_torchs_workers_count_themselves() {
    let t = Case::new();
    let script = t.write("guest.py", TORCH_GUEST, 0o644);
    let mut server = Serving::start(&t, &["127.0.0.1"]);
    let start = || {
        let mut guest = torch(&t, &script);
        guest.args([&server.port.to_string(), "3"]).stdout(Stdio::piped()).spawn().expect("Python")
    };
    let guests = [start(), start()];
    assert_eq!(does(&t, server.port, "wait none 0"), "TIMEOUT");
    assert_eq!(server.say("workers 2 60"), "ICE_OK");
    assert_eq!(does(&t, server.port, "arrive set go 1"), "3|");
    assert_eq!(server.say("workers 3 60"), "ICE_OK");
    for guest in guests {
        let output = guest.wait_with_output().expect("its end");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "went", "{output:?}");
    }
    server.end();
}

fn store_a_secret_keeps_torchs_clients_out_and_its_servers_are_refused() {
    let t = Case::new();
    let script = t.write("guest.py", TORCH_GUEST, 0o644);
    let mut serve = t.command(program("store"));
    serve.args(["serve", "127.0.0.1"]);
    let mut server = Serving::of(knowing(serve, SECRET));
    let output = torch(&t, &script).args([&server.port.to_string(), "1"]).output().expect("Python");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim(), "DistNetworkError", "{output:?}");
    assert!(!server.say("counts").contains(" 0 refused"));
    server.end();
    let script = t.write("server.py", TORCH_SERVER, 0o644);
    for kind in ["libuv", "legacy"] {
        let mut command = torch(&t, &script);
        command.arg(kind);
        let server = Serving::of(command);
        let output = knowing(client(&t, server.port, "connect 1"), SECRET).output().expect("a client");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("ICE_ERROR_TIMEOUT"), "{kind}: {said}");
        assert!(said.contains("PyTorch's servers have none"), "{kind}: {said}");
        server.end();
    }
}

const GLOO: &[u8] = br#"
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method="env://")
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
assert value.item() == 6, value
dist.new_group([0, 2])
dist.barrier()
dist.destroy_process_group()
"#;

fn store_13_process_groups_of_torch_meet_at_it() {
    let t = Case::new();
    let script = t.write("gloo.py", GLOO, 0o644);
    let server = Serving::start(&t, &["127.0.0.1"]);
    let workers: Vec<Child> = (0..3)
        .map(|rank| {
            let mut worker = torch(&t, &script);
            worker.env("RANK", rank.to_string()).env("WORLD_SIZE", "3").env("MASTER_ADDR", "127.0.0.1");
            worker.env("MASTER_PORT", server.port.to_string()).env("TORCHELASTIC_USE_AGENT_STORE", "True");
            worker.stderr(Stdio::piped()).spawn().expect("Python")
        })
        .collect();
    for worker in workers {
        let output = worker.wait_with_output().expect("its end");
        assert!(output.status.success(), "{output:?}");
    }
    // All three were its clients.
    assert_eq!(does(&t, server.port, "check default_pg/0//cpu//0/0,default_pg/0//cpu//0/2"), "1");
    server.end();
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(torch): store_01_torchs_client_sees_no_difference,
        needs(torch): store_02_torchs_servers_are_no_different,
        store_04_a_number_is_text,
        store_05_compare_set,
        store_06_all_that_wait_wake,
        store_08_clients_killed_while_they_wait,
        store_09_several_keys_and_append,
        store_10_prefixes,
        store_12_what_is_large_is_intact_or_refused,
        needs(torch): store_13_process_groups_of_torch_meet_at_it,
        store_14_a_server_that_comes_later,
        store_16_an_end_frees_the_port_and_wakes_those_who_wait,
        store_17_the_host_waits_for_its_workers,
        needs(torch): store_17_torchs_workers_count_themselves,
        store_18_it_listens_where_it_is_told,
        store_20_queues,
        store_waits_can_be_interrupted,
        store_workers_meet_at_the_store_of_their_job,
        store_workers_meet_in_every_start_method_and_attempt,
        store_workers_of_icerun_meet,
        store_a_secret_keeps_others_out,
        store_a_secret_does_not_go_over_the_wire,
        needs(torch): store_a_secret_keeps_torchs_clients_out_and_its_servers_are_refused,
        store_broadcast_of_generations,
        store_garbage_harms_nobody_else,
        store_replies_go_to_nobody_else,
        store_one_that_does_not_take_its_replies,
        store_memory_has_a_limit,
        store_more_clients_than_descriptors,
        store_few_descriptors_left,
        store_slow_readers_of_large_replies,
        store_requests_that_trickle_in,
        store_a_server_that_is_none,
        store_its_thread_is_a_polite_guest,
    ]
}

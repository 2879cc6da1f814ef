//! With real servers of etcd. Where there is none these tests are to count as skipped, which only `tests/blackbox` can
//! do: it runs them (`cargo test --test blackbox -- etcd_`).

mod server;

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use self::server::{PATIENCE, Server};
use super::*;
use crate::rendezvous::backend::{Backend, Swap, create};
use crate::rendezvous::member::tests::{Agent, settings};
use crate::rendezvous::member::{MemberWish, Notice, Settings};
use crate::rendezvous::state::Ending;
use crate::report::exit_status::Exit;
use crate::spec::rendezvous_options::Options;
use crate::sys::fd::Bell;

fn options(pairs: &[(&str, &str)]) -> Options {
    let mut options = Options::default();
    pairs.iter().for_each(|(key, value)| options.set(key, value).unwrap());
    options
}

/// Why it does not connect.
fn trouble(endpoints: &str, pairs: &[(&str, &str)]) -> Error {
    Etcd::new(endpoints, "job", &options(pairs)).and_then(|mut etcd| etcd.connect()).unwrap_err()
}

/// The same, where another try would be in vain.
fn lasting_trouble(endpoints: &str, pairs: &[(&str, &str)]) -> String {
    match trouble(endpoints, pairs) {
        Error::Rendezvous { what } => what,
        other => panic!("it may pass: {other}"),
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn etcd_06_no_run_id_begins_as_another_one_does() {
    let ids = ["a", "a/b", "a%2Fb", "a%", "a%25", ""];
    let prefixes = ids.map(prefix);
    assert_eq!(prefixes[1], "libice/a%2Fb/");
    for (at, one) in prefixes.iter().enumerate() {
        assert!(
            prefixes.iter().enumerate().all(|(other, two)| at == other || !two.starts_with(one)),
            "{one}"
        );
    }
}

#[test]
fn etcd_04_keys_stay_for_longer_than_an_outage_is_lived_with() {
    assert_eq!(ttl(&options(&[])), Duration::from_secs(360));
    assert_eq!(ttl(&options(&[("lost_timeout", "10")])), Duration::from_secs(70));
    assert_eq!(ttl(&options(&[("ttl", "90")])), Duration::from_secs(90));
}

#[test]
fn etcd_01_endpoints_are_servers_of_one_kind() {
    let parse = |text: &str, tls| parse_endpoints(text, tls).map_err(|error| error.to_string());
    let shown = |(servers, tls): (Vec<Endpoint>, bool)| {
        (servers.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(" "), tls)
    };
    for (text, tls, wanted) in [
        ("a", None, ("a:2379", false)),
        ("a:1, b", None, ("a:1 b:2379", false)),
        ("a:1,[::1]:2", Some(true), ("a:1 [::1]:2", true)),
        ("https://a:1/,b:2", None, ("a:1 b:2", true)),
    ] {
        let (servers, tls) = shown(parse(text, tls).unwrap());
        assert_eq!((servers.as_str(), tls), wanted, "{text}");
    }
    for (text, tls) in [
        ("", None),
        ("a,", None),
        ("a,,b", None),
        ("ftp://a", None),
        ("http://a", Some(true)),
        ("http://a,https://b", None),
        ("a:x", None),
    ] {
        let error = parse(text, tls).unwrap_err();
        assert!(error.contains("rendezvous_endpoint is "), "{text}: {error}");
    }
}

#[test]
fn etcd_04_options_that_do_not_go_together_are_refused() {
    let here = file!();
    for (pairs, part) in [
        (&[("ca_cert", "/ca")][..], "is for protocol=https"),
        (&[("protocol", "https"), ("ca_cert", "/none")], "ca_cert=/none: must be a file with certificates"),
        (&[("protocol", "https"), ("ca_cert", here)], "must be a file with certificates: there is none"),
        (&[("protocol", "https"), ("ssl_cert", here)], "must be a file with a private key"),
        (&[("user", "me")], "needs a password"),
        (&[("password", "x")], "needs a user"),
    ] {
        let error = trouble("127.0.0.1:1", pairs).to_string();
        assert!(error.contains(part) && error.contains("rendezvous_option"), "{error}");
    }
}

#[test]
fn what_is_no_etcd_is_told_at_once() {
    for (answer, part) in [
        ("SSH-2.0-OpenSSH\r\n", "does not answer in HTTP"),
        ("HTTP/1.1 404 Not Stored\r\nContent-Length: 0\r\n\r\n", "no etcd of version 3.4"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "is no etcd: it answers \"<html>\""),
        ("HTTP/1.0 400 Bad Request\r\n\r\nan HTTPS server", "is no etcd: it answers with status 400"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::io::{Read, Write};
                let (mut client, _) = listener.accept().unwrap();
                assert!(client.read(&mut [0; 4096]).unwrap() > 0);
                client.write_all(answer.as_bytes()).unwrap();
            });
            let what = lasting_trouble(&endpoint, &[]);
            assert!(what.contains(part) && what.contains(&endpoint), "{what}");
        });
    }
    // Nobody is there: that may pass.
    assert!(matches!(trouble("127.0.0.1:1", &[]), Error::Store { .. }));
}

#[test]
#[ignore = "needs etcd"]
fn etcd_09_the_tests_servers_end_with_their_test() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let failing = std::thread::spawn(move || {
        let server = Server::start();
        server.etcd("job").put("k", b"v").unwrap();
        sender.send((server.dir.clone(), server.pid())).unwrap();
        panic!("this is part of the test");
    });
    let (dir, pid) = receiver.recv().unwrap();
    assert!(failing.join().is_err());
    assert!(!dir.exists() && !Path::new(&format!("/proc/{pid}")).exists());
    // One that cannot tidy up any more.
    let pid = std::thread::spawn(|| {
        let server = Server::start();
        std::fs::remove_dir_all(&server.dir).unwrap();
        let pid = server.pid();
        std::mem::forget(server);
        pid
    });
    let stat = format!("/proc/{}/stat", pid.join().unwrap());
    let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    let deadline = soon();
    while runs() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs etcd"]
fn etcd_02_a_value_is_set_by_its_token() {
    let server = Server::start();
    let mut etcd = server.etcd("job");
    for key in ["", "state/0"] {
        assert_eq!(etcd.get(key), Ok(None));
        assert_eq!(etcd.compare_and_set(key, Some(&b"7".to_vec()), b"x"), Ok(Swap::Refused(None)));
        assert_eq!(etcd.compare_and_set(key, None, b"one\0\xff"), Ok(Swap::Done));
        let one = etcd.get(key).unwrap().unwrap();
        assert_eq!(one.value, b"one\0\xff");
        assert_eq!(etcd.compare_and_set(key, None, b"x"), Ok(Swap::Refused(Some(one.clone()))));
        assert_eq!(etcd.compare_and_set(key, Some(&one.token), b"two"), Ok(Swap::Done));
        let two = etcd.get(key).unwrap().unwrap();
        assert_eq!(etcd.compare_and_set(key, Some(&one.token), b"x"), Ok(Swap::Refused(Some(two.clone()))));
        for token in [&b""[..], b"\xff", b"two", b"0", b"-1"] {
            let error = etcd.compare_and_set(key, Some(&token.to_vec()), b"x").unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
        }
        assert_eq!(etcd.get(key), Ok(Some(two)));
        etcd.put(key, b"three").unwrap();
        assert_eq!(etcd.get(key).unwrap().unwrap().value, b"three");
        etcd.delete(key).unwrap();
        etcd.delete(key).unwrap();
        assert_eq!(etcd.get(key), Ok(None));
    }
    assert_eq!(etcd.address().as_deref(), Some("127.0.0.1"));
    assert_eq!(server.keys(), ["libice/job/lease"]);
}

#[test]
#[ignore = "needs etcd"]
fn etcd_02_a_counter_gives_each_number_once() {
    const AGENTS: usize = 16;
    const EACH: usize = 8;
    let server = Server::start();
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let agents = [(); AGENTS].map(|()| {
            scope.spawn(|| {
                let mut etcd = server.etcd("job");
                (0..EACH).map(|_| etcd.next("inbox").unwrap()).collect::<Vec<_>>()
            })
        });
        agents.into_iter().flat_map(|agent| agent.join().unwrap()).collect()
    });
    numbers.sort();
    assert_eq!(numbers, (0..(AGENTS * EACH) as u64).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_a_wait_is_ended_by_its_key_by_the_bell_and_by_the_time() {
    let server = Server::start();
    let (mut etcd, mut other) = (server.etcd("job"), server.etcd("job"));
    let bell = Bell::new().unwrap();
    assert_eq!(etcd.wait("state/1", Instant::now() + Duration::from_millis(20), bell.as_fd()), Ok(false));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| etcd.wait("state/1", soon(), bell.as_fd()));
        // Others like it, and keys of another kind, do not end it.
        for key in ["state/0", "state/10", "inbox/1", "state/1"] {
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished(), "{key}");
            other.put(key, b"v").unwrap();
        }
        assert_eq!(waiting.join().unwrap(), Ok(true));
    });
    // What is there is not waited for, what was there and is gone is.
    assert_eq!(etcd.wait("state/10", soon(), bell.as_fd()), Ok(true));
    other.delete("state/10").unwrap();
    for key in ["state/10", "inbox/2", "state/2"] {
        bell.quiet();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| etcd.wait(key, soon(), bell.as_fd()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished(), "{key}");
            bell.ring();
            assert_eq!(waiting.join().unwrap(), Ok(false));
        });
    }
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_nothing_is_asked_while_it_waits() {
    use std::io::{Read, Write};
    let server = Server::start();
    let requests = || {
        let mut socket = std::net::TcpStream::connect(server.endpoint()).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let handled = text.lines().filter(|line| line.starts_with("grpc_server_started_total"));
        handled.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum::<u64>()
    };
    let mut etcd = server.etcd("job");
    let bell = Bell::new().unwrap();
    // The first one begins the watch.
    etcd.wait("state/1", Instant::now(), bell.as_fd()).unwrap();
    let before = requests();
    etcd.wait("state/1", Instant::now() + Duration::from_secs(1), bell.as_fd()).unwrap();
    assert_eq!(requests() - before, 1, "a look at its beginning");
}

#[test]
#[ignore = "needs etcd"]
fn etcd_05_keys_stay_as_long_as_one_agent_does_and_then_vanish() {
    let server = Server::start();
    let options = options(&[("ttl", "5")]);
    let agent = || {
        let mut etcd = Etcd::new(&server.endpoint(), "job", &options).unwrap();
        etcd.connect().unwrap();
        etcd
    };
    let (mut first, mut second) = (agent(), agent());
    first.put("state/0", b"v").unwrap();
    second.put("beat/2", b"1").unwrap();
    // It dies without a word. The other one does nothing but wait.
    drop(first);
    let bell = Bell::new().unwrap();
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert_eq!(second.wait("state/1", until, bell.as_fd()), Ok(false));
    }
    assert_eq!(server.keys(), ["libice/job/beat/2", "libice/job/lease", "libice/job/state/0"]);
    second.leave(Instant::now());
    let deadline = soon();
    while server.keys().iter().any(|key| key.contains("state")) {
        assert!(Instant::now() < deadline);
        // One that looks in, and finds nothing for it, does not make them stay.
        let mut passer_by = Etcd::new(&server.endpoint(), "job", &options).unwrap();
        let _ = passer_by.connect().and_then(|()| passer_by.get(""));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!server.keys().contains(&"libice/job/beat/2".to_string()));
}

#[test]
#[ignore = "needs etcd"]
fn etcd_05_an_agent_that_was_away_too_long_is_told() {
    let server = Server::start();
    let mut etcd = server.etcd("job");
    etcd.put("state/0", b"v").unwrap();
    let id = String::from_utf8(etcd.get(LEASE).unwrap().unwrap().value).unwrap();
    server.ask("lease/revoke", json!({ "ID": id }));
    etcd.link.as_mut().unwrap().1.due = Instant::now();
    let error = etcd.get("state/0").unwrap_err();
    assert!(matches!(&error, Error::Store { what } if what.contains("has removed the keys")), "{error}");
    etcd.connect().unwrap();
    assert_eq!(etcd.get("state/0"), Ok(None));
    etcd.put("state/0", b"v").unwrap();
}

#[test]
#[ignore = "needs etcd"]
fn etcd_06_jobs_do_not_see_each_other() {
    let server = Server::start();
    let [mut one, mut two] = ["c", "c/state"].map(|id| server.etcd(id));
    assert_eq!(create(&mut one, "state/0", b"one"), Ok(None));
    assert_eq!(two.get("0"), Ok(None));
    assert_eq!(create(&mut two, "state/0", b"two"), Ok(None));
    assert_eq!(one.get("state/0").unwrap().unwrap().value, b"one");
    let jobs = ["a", "b"].map(|id| agents(&server.endpoint(), id, &["x", "y"], 2));
    jobs.iter().for_each(|job| assert_eq!(together(job), 0));
    jobs[0].iter().for_each(|agent| agent.wish(MemberWish::Done));
    for agent in &jobs[0] {
        assert_eq!(agent.notice(), Notice::Ended(Ending::Succeeded));
    }
    restarted(&jobs[1], 1);
    jobs.into_iter().flatten().for_each(Agent::leave);
}

// ---- users and certificates

#[test]
#[ignore = "needs etcd"]
fn etcd_04_a_user_is_who_he_says_or_is_told() {
    let server = Server::start();
    // A server that asks nobody who he is takes anybody.
    let mut open =
        Etcd::new(&server.endpoint(), "job", &options(&[("user", "x"), ("password", "y")])).unwrap();
    open.connect().unwrap();
    for (what, body) in [
        ("auth/user/add", json!({ "name": "root", "password": "r" })),
        ("auth/user/add", json!({ "name": "me", "password": "secret" })),
        ("auth/role/add", json!({ "name": "root" })),
        ("auth/role/add", json!({ "name": "jobs" })),
        (
            "auth/role/grant",
            json!({ "name": "jobs", "perm": {
                "permType": "READWRITE", "key": api::base64(b"libice/job/"), "range_end": api::base64(b"libice/job0"),
            }}),
        ),
        ("auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("auth/user/grant", json!({ "user": "me", "role": "jobs" })),
        ("auth/enable", json!({})),
    ] {
        server.ask(what, body);
    }
    for (pairs, part) in [
        (&[][..], "user name is empty"),
        (&[("user", "me"), ("password", "wrong")], "invalid user ID or password"),
    ] {
        let what = lasting_trouble(&server.endpoint(), pairs);
        assert!(what.contains(part) && !what.contains("wrong"), "{what}");
    }
    let own = options(&[("user", "me"), ("password", "secret")]);
    let Err(Error::Rendezvous { what }) =
        Etcd::new(&server.endpoint(), "other", &own).and_then(|mut etcd| etcd.connect())
    else {
        panic!()
    };
    assert!(what.contains("permission denied (see the options user and password)"), "{what}");
    let settings = || Settings { options: own.clone(), ..settings(2, 2) };
    let agents = ["a", "b"].map(|name| {
        let etcd = Etcd::new(&server.endpoint(), "job", &own).unwrap();
        Agent::over(Box::new(etcd), name, settings())
    });
    together(&agents);
    agents.into_iter().for_each(Agent::leave);
}

/// Makes authorities, and certificates of the first one: for a client, for the server, and for a server that is good
/// for nothing else.
fn certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -keyout \
             {name}.key -out {name}.pem"
        ));
    }
    for (name, use_for) in [("client", ""), ("server", ""), ("narrow", "extendedKeyUsage=serverAuth\n")] {
        std::fs::write(dir.join("extensions"), names.to_string() + use_for).unwrap();
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out \
             {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out \
             {name}.pem"
        ));
    }
}

/// One that wants certificates of its clients, too, and has this one.
fn https_server(name: &str) -> Server {
    Server::with(|dir| {
        certificates(dir);
        let file = |name: String| dir.join(name).display().to_string();
        let files = [
            ("--cert-file", format!("{name}.pem")),
            ("--key-file", format!("{name}.key")),
            ("--trusted-ca-file", "ca.pem".into()),
        ];
        let options = files.into_iter().flat_map(|(option, name)| [option.to_string(), file(name)]);
        options.chain(["--client-cert-auth".into()]).collect()
    })
}

#[test]
#[ignore = "needs etcd"]
fn etcd_04_a_gateway_that_does_not_reach_its_etcd_is_told() {
    let server = https_server("narrow");
    let file = |name: &str| server.dir.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let pairs = [("protocol", "https"), ("ca_cert", &ca), ("ssl_cert", &cert), ("ssl_cert_key", &key)];
    let error = trouble(&server.endpoint(), &pairs).to_string();
    assert!(error.contains("so says its gateway: with --client-cert-auth"), "{error}");
}

#[test]
#[ignore = "needs etcd"]
fn etcd_04_both_sides_show_certificates() {
    let server = https_server("server");
    let file = |name: &str| server.dir.join(name).display().to_string();
    let (ca, other, cert, key) = (file("ca.pem"), file("other.pem"), file("client.pem"), file("client.key"));
    let right = [("protocol", "https"), ("ca_cert", &ca), ("ssl_cert", &cert), ("ssl_cert_key", &key)];
    for host in ["127.0.0.1", "localhost"] {
        let options = Options { etcd: options(&right).etcd, ..settings(2, 2).options };
        let agents = ["a", "b"].map(|name| {
            let etcd = Etcd::new(&format!("{host}:{}", server.port), host, &options).unwrap();
            Agent::over(Box::new(etcd), name, settings(2, 2))
        });
        together(&agents);
        restarted(&agents, 1);
        agents.into_iter().for_each(Agent::leave);
    }
    let wrong_ca = [right[0], ("ca_cert", &other), right[2], right[3]];
    for (pairs, part) in [
        (&wrong_ca[..], "has a certificate that is not accepted, see the option ca_cert"),
        (&[right[0], right[2], right[3]], "has a certificate that is not accepted, see the option ca_cert"),
        (&right[..2], "refuses the connection by TLS, see the options ssl_cert and ssl_cert_key"),
    ] {
        let what = lasting_trouble(&server.endpoint(), pairs);
        assert!(what.contains(part), "{what}");
    }
    let plain = Server::start();
    for (server, pairs) in [(&server, &[][..]), (&plain, &right)] {
        let error = trouble(&server.endpoint(), pairs).to_string();
        assert!(error.contains("without an answer (see the option protocol)"), "{error}");
    }
    let mismatched = [right[0], right[1], right[2], ("ssl_cert_key", &file("server.key"))];
    let error = trouble(&server.endpoint(), &mismatched).to_string();
    assert!(error.contains("ssl_cert=") && error.contains("does not go with its key"), "{error}");
}

#[test]
#[ignore = "needs etcd"]
fn etcd_10_certificates_that_were_replaced_are_read_anew() {
    const OWN: [&str; 3] = ["ca.pem", "client.pem", "client.key"];
    let mut server = https_server("server");
    let (dir, own, new) = (server.dir.clone(), server.dir.join("own"), server.dir.join("new"));
    [&own, &new].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let copy = |from: &Path, to: &Path, names: &[&str]| {
        names
            .iter()
            .for_each(|name| assert!(std::fs::copy(from.join(name), to.join(name)).is_ok(), "{name}"));
    };
    copy(&dir, &own, &OWN);
    let [ca, cert, key] = OWN.map(|name| own.join(name).display().to_string());
    let pairs = [("protocol", "https"), ("ca_cert", &ca), ("ssl_cert", &cert), ("ssl_cert_key", &key)];
    let options = options(&pairs);
    let agents = ["a", "b"].map(|name| {
        let mut settings = settings(2, 2);
        settings.options.etcd = options.etcd.clone();
        settings.options.lost_timeout = Duration::from_secs(60);
        settings.options.keep_alive_interval = Duration::from_millis(500);
        settings.rules.dead_after = settings.options.dead_after();
        let etcd = Etcd::new(&server.endpoint(), "job", &settings.options).unwrap();
        Agent::over(Box::new(etcd), name, settings)
    });
    assert_eq!(together(&agents), 0);
    // Somebody is about to replace them.
    let mut etcd = Etcd::new(&server.endpoint(), "own", &options).unwrap();
    let half = std::fs::read(&cert).unwrap();
    std::fs::write(&cert, &half[..half.len() / 2]).unwrap();
    std::fs::remove_file(&key).unwrap();
    etcd.connect().unwrap();
    let warning = etcd.warning().unwrap();
    assert!(warning.contains("the last ones are used") && warning.contains(&key), "{warning}");
    etcd.connect().unwrap();
    assert_eq!(etcd.warning(), None);
    server.kill();
    server.restart();
    restarted(&agents, 1);
    // All are others now, and the agents see theirs later than the server.
    certificates(&new);
    copy(&new, &dir, &["ca.pem", "server.pem", "server.key"]);
    server.kill();
    server.restart();
    assert!(matches!(etcd.connect(), Err(Error::Store { .. })));
    copy(&new, &own, &OWN);
    let deadline = soon();
    while let Err(error) = etcd.connect() {
        assert!(Instant::now() < deadline, "{error}");
    }
    restarted(&agents, 2);
    agents.into_iter().for_each(Agent::leave);
}

// ---- agents

fn agents(endpoints: &str, run_id: &str, names: &[&str], min_nodes: usize) -> Vec<Agent> {
    let start = |name: &&str| {
        let mut settings = settings(min_nodes, names.len());
        // The servers write to disks that others use as well.
        for (key, value) in
            [("keep_alive_interval", "0.5"), ("keep_alive_max_attempt", "10"), ("lost_timeout", "60")]
        {
            settings.options.set(key, value).unwrap();
        }
        settings.rules.dead_after = settings.options.dead_after();
        let etcd = Etcd::new(endpoints, run_id, &settings.options).unwrap();
        Agent::over(Box::new(etcd), name, settings)
    };
    names.iter().map(start).collect()
}

/// They are in one round, each in its place.
fn together(agents: &[Agent]) -> u64 {
    let rounds: Vec<_> = agents.iter().map(Agent::joined).collect();
    let mut places: Vec<usize> = rounds.iter().map(|round| round.group_rank).collect();
    places.sort();
    assert_eq!(places, (0..agents.len()).collect::<Vec<_>>());
    assert!(rounds.iter().all(|round| round.nodes == rounds[0].nodes && round.number == rounds[0].number));
    rounds[0].number
}

/// A worker fails, and they meet again.
fn restarted(agents: &[Agent], round: u64) {
    agents[0].wish(MemberWish::Failed {
        reason: "rank 1".into(),
        exit: Exit { code: Some(7), timed_out: false },
        last: false,
    });
    for agent in agents {
        assert!(matches!(agent.notice(), Notice::Over { round: over, .. } if over + 1 == round));
        agent.wish(MemberWish::Join { port: 2 });
    }
    assert_eq!(together(agents), round);
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_two_agents_meet_restart_and_end() {
    let server = Server::start();
    let agents = agents(&server.endpoint(), "job", &["a", "b"], 2);
    assert_eq!(together(&agents), 0);
    restarted(&agents, 1);
    agents.iter().for_each(|agent| agent.wish(MemberWish::Done));
    for agent in agents {
        assert_eq!(agent.notice(), Notice::Ended(Ending::Succeeded));
        agent.leave();
    }
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_of_five_agents_one_dies() {
    let server = Server::start();
    let mut agents = agents(&server.endpoint(), "job", &["a", "b", "c", "d", "e"], 4);
    assert_eq!(together(&agents), 0);
    agents.remove(2).die();
    for agent in &agents {
        let Notice::Over { why, .. } = agent.notice() else { panic!() };
        assert!(why.contains("has vanished"), "{why}");
        agent.wish(MemberWish::Join { port: 1 });
    }
    assert_eq!(together(&agents), 1);
    agents.into_iter().for_each(Agent::leave);
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_agents_outlive_a_restart_of_the_server() {
    let mut server = Server::start();
    let agents = agents(&server.endpoint(), "job", &["a", "b"], 2);
    assert_eq!(together(&agents), 0);
    for round in 1..3 {
        server.kill();
        // Healthy workers go on.
        std::thread::sleep(Duration::from_millis(300));
        server.restart();
        restarted(&agents, round);
    }
    agents.into_iter().for_each(Agent::leave);
}

#[test]
#[ignore = "needs etcd"]
fn etcd_01_agents_outlive_the_loss_of_one_server_of_three() {
    let mut servers = Server::cluster();
    let endpoints = servers.each_ref().map(Server::endpoint).join(",");
    let mut etcd = Etcd::new(&endpoints, "own", &Options::default()).unwrap();
    etcd.connect().unwrap();
    etcd.put("state/0", b"v").unwrap();
    let agents = agents(&endpoints, "job", &["a", "b", "c"], 3);
    assert_eq!(together(&agents), 0);
    let port = etcd.link.as_ref().unwrap().0.server.port;
    servers.iter_mut().find(|server| server.port == port).unwrap().kill();
    assert!(matches!(etcd.get("state/0"), Err(Error::Store { .. })));
    let deadline = soon();
    // The two that are left may have to agree who leads.
    while let Err(error) = etcd.connect() {
        assert!(matches!(error, Error::Store { .. } | Error::Timeout { .. }), "{error}");
        assert!(Instant::now() < deadline);
    }
    assert_eq!(etcd.get("state/0").unwrap().unwrap().value, b"v");
    restarted(&agents, 1);
    agents.into_iter().for_each(Agent::leave);
}

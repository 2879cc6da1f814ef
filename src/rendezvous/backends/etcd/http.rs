//! HTTP/1.1 to one server, as far as etcd's gateway needs it: a request with a body of JSON, an answer that is
//! whole or goes on and on. All waiting is here: for the socket, for a bell beside it, until a moment.
//!
//! Not by ureq, the synchronous client for it: a watch is waited for together with the agent's bell, also within TLS,
//! where bytes that have come may lie decrypted already; its body is a reader that blocks, and hands out no such state.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::error::Error;
use crate::spec::endpoint::Endpoint;
use crate::store::connection::connect_to;
use crate::store::interrupt::Interrupter;
use crate::sys::process::poll_timeout;

/// What is read at once.
const CHUNK: usize = 16 << 10;
/// What a server may say at most, so that one that is no etcd fills no memory.
const LONGEST_HEAD: usize = 64 << 10;
/// Any other line: sizes of chunks, what follows the last one.
const LONGEST_LINE: usize = 4 << 10;
const LONGEST_BODY: usize = 16 << 20;
const MOST_HEADERS: usize = 64;

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Waited {
    /// There is more to read.
    Ready,
    Late,
    Rung,
}

pub struct Connection {
    stream: Arc<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    /// `host:port`, for messages and for the server.
    server: String,
    unread: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects to the first address of the server that answers.
    pub fn open(
        server: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        interrupter: &Interrupter,
        by: Instant,
    ) -> Result<Connection, Error> {
        let Endpoint { host, port } = server;
        let failed =
            |why: String| Error::Store { what: format!("cannot connect to etcd at {server}: {why}") };
        let addresses =
            (host.as_str(), *port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<_> = addresses.collect();
        let mut why = "the name has no address".to_string();
        for (tried, address) in addresses.iter().enumerate() {
            // One that does not answer leaves time for the others.
            let now = Instant::now();
            let share = (addresses.len() - tried) as u32;
            let own = now + by.saturating_duration_since(now) / share;
            match connect_to(address, Some(own), interrupter) {
                Ok(stream) => return Connection::greet(stream, server, tls, by),
                Err(error) => why = error.to_string(),
            }
        }
        Err(failed(why))
    }

    fn greet(
        stream: Arc<TcpStream>,
        server: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        by: Instant,
    ) -> Result<Connection, Error> {
        let mut connection = Connection { stream, tls: None, server: server.to_string(), unread: Vec::new() };
        connection.stream.set_nonblocking(true).map_err(|error| connection.lost(error))?;
        if let Some(config) = tls {
            let name = ServerName::try_from(server.host.clone());
            let name = name.map_err(|error| connection.lasting(&format!("has no name for TLS: {error}")))?;
            let tls = ClientConnection::new(config.clone(), name);
            connection.tls = Some(Box::new(tls.map_err(|error| connection.refused_by_tls(error))?));
            connection.shake_hands(by)?;
        }
        Ok(connection)
    }

    /// The address of this host on the way to the server.
    pub fn local_address(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// One request, and its whole answer.
    pub fn post(
        &mut self,
        path: &str,
        authorization: Option<&str>,
        body: &str,
        by: Instant,
    ) -> Result<Answer, Error> {
        self.send(path, authorization, body, by)?;
        let mut head = self.head(by)?;
        let body = self.rest(&mut head, by)?;
        Ok(Answer { status: head.status, body })
    }

    /// The request alone.
    pub fn send(
        &mut self,
        path: &str,
        authorization: Option<&str>,
        body: &str,
        by: Instant,
    ) -> Result<(), Error> {
        let authorization =
            authorization.map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             {authorization}\r\n{body}",
            self.server,
            body.len()
        );
        match &mut self.tls {
            Some(tls) => {
                tls.writer().write_all(request.as_bytes()).map_err(|error| self.lost(error))?;
                self.flush(by)
            }
            None => {
                let mut rest = request.as_bytes();
                while !rest.is_empty() {
                    match (&*self.stream).write(rest) {
                        Ok(sent) => rest = &rest[sent..],
                        Err(error) => self.stalled(error, PollFlags::POLLOUT, by)?,
                    }
                }
                Ok(())
            }
        }
    }

    /// The beginning of an answer.
    pub fn head(&mut self, by: Instant) -> Result<Head, Error> {
        let (mut looked_at, mut look_again) = (0, 0);
        loop {
            // What trickles in is not looked at from its beginning for every byte: at its end, and now and then.
            let ends = memchr::memmem::find(&self.unread[looked_at..], b"\n").is_some();
            if ends || self.unread.len() >= look_again {
                if let Some((head, length)) = Head::parse(&self.unread).map_err(|why| self.lasting(&why))? {
                    self.unread.drain(..length);
                    return Ok(head);
                }
                look_again = 2 * self.unread.len();
            }
            looked_at = self.unread.len();
            if self.unread.len() > LONGEST_HEAD {
                return Err(self.lasting("is no etcd: it does not end what it says"));
            }
            self.check_time(by)?;
            if !self.fill(by)? {
                return Err(self.hung_up());
            }
        }
    }

    /// All that is left of an answer's body.
    pub fn rest(&mut self, head: &mut Head, by: Instant) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while !self.take(head, &mut body)? {
            self.check_time(by)?;
            if !self.fill(by)? {
                head.end().map_err(|why| self.passing(why))?;
            }
        }
        Ok(body)
    }

    /// What there is of an answer's body. True when that was all.
    pub fn take(&mut self, head: &mut Head, body: &mut Vec<u8>) -> Result<bool, Error> {
        let is_over = head.take(&mut self.unread, body).map_err(|why| self.passing(why))?;
        if body.len() > LONGEST_BODY {
            return Err(self.passing("answers more than can be"));
        }
        // What is left is the beginning of a line, unless another answer follows.
        if !is_over && self.unread.len() > LONGEST_LINE {
            return Err(self.passing("answers with a line that does not end"));
        }
        Ok(is_over)
    }

    /// An answer that comes byte by byte has no more time than another one. What has come already is read first: who
    /// stood still finds it there.
    fn check_time(&self, by: Instant) -> Result<(), Error> {
        if by > Instant::now() { Ok(()) } else { Err(self.passing("does not answer in time")) }
    }

    /// Waits for more of what the server says, and reads it.
    pub fn wait(&mut self, until: Instant, bell: BorrowedFd) -> Result<Waited, Error> {
        loop {
            match self.read_now()? {
                Filled::More => return Ok(Waited::Ready),
                Filled::End => return Err(self.passing("has closed the connection")),
                Filled::Nothing => {}
            }
            match self.ready(PollFlags::POLLIN, until, Some(bell))? {
                Waited::Ready => {}
                other => return Ok(other),
            }
        }
    }

    /// Reads more, which is to come in time. False if there is no more.
    fn fill(&mut self, by: Instant) -> Result<bool, Error> {
        loop {
            match self.read_now()? {
                Filled::More => return Ok(true),
                Filled::End => return Ok(false),
                Filled::Nothing => self.stalled(io::ErrorKind::WouldBlock.into(), PollFlags::POLLIN, by)?,
            }
        }
    }

    /// Reads what has come already.
    fn read_now(&mut self) -> Result<Filled, Error> {
        let mut chunk = [0; CHUNK];
        loop {
            let read = match &mut self.tls {
                Some(tls) => tls.reader().read(&mut chunk),
                None => (&*self.stream).read(&mut chunk),
            };
            match read {
                Ok(0) => return Ok(Filled::End),
                Ok(length) => {
                    self.unread.extend_from_slice(&chunk[..length]);
                    return Ok(Filled::More);
                }
                Err(error) if !is_for_later(&error) => return Err(self.lost(error)),
                Err(_) if self.tls.is_none() => return Ok(Filled::Nothing),
                Err(_) => match self.decrypt()? {
                    Filled::More => {}
                    other => return Ok(other),
                },
            }
        }
    }

    /// Gives TLS what has come.
    fn decrypt(&mut self) -> Result<Filled, Error> {
        let Some(tls) = &mut self.tls else { return Ok(Filled::Nothing) };
        match tls.read_tls(&mut &*self.stream) {
            Ok(0) => return Ok(Filled::End),
            Ok(_) => {}
            Err(error) if is_for_later(&error) => return Ok(Filled::Nothing),
            Err(error) => return Err(self.lost(error)),
        }
        match tls.process_new_packets() {
            Ok(_) => Ok(Filled::More),
            Err(error) => {
                // The server is told why, if it can be.
                let _ = tls.write_tls(&mut &*self.stream);
                Err(self.refused_by_tls(error))
            }
        }
    }

    fn shake_hands(&mut self, by: Instant) -> Result<(), Error> {
        loop {
            self.flush(by)?;
            if !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                return Ok(());
            }
            match self.decrypt()? {
                Filled::More => self.check_time(by)?,
                Filled::End => return Err(self.hung_up()),
                Filled::Nothing => self.stalled(io::ErrorKind::WouldBlock.into(), PollFlags::POLLIN, by)?,
            }
        }
    }

    /// Sends what TLS has to say.
    fn flush(&mut self, by: Instant) -> Result<(), Error> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            let Err(error) = tls.write_tls(&mut &*self.stream) else { continue };
            if !is_for_later(&error) {
                // The server may have said why it hears no more.
                while self.decrypt()? == Filled::More {}
            }
            self.stalled(error, PollFlags::POLLOUT, by)?;
        }
        Ok(())
    }

    /// Waits for the socket, if that is all that was wrong.
    fn stalled(&self, error: io::Error, wanted: PollFlags, by: Instant) -> Result<(), Error> {
        if !is_for_later(&error) {
            return Err(self.lost(error));
        }
        match self.ready(wanted, by, None)? {
            Waited::Late => Err(self.passing("does not answer in time")),
            _ => Ok(()),
        }
    }

    fn ready(&self, wanted: PollFlags, until: Instant, bell: Option<BorrowedFd>) -> Result<Waited, Error> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut items = vec![PollFd::new(self.stream.as_fd(), wanted)];
            items.extend(bell.map(|bell| PollFd::new(bell, PollFlags::POLLIN)));
            match poll(&mut items, poll_timeout(left)) {
                Ok(0) if left.is_zero() => return Ok(Waited::Late),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if items[0].any().unwrap_or(true) => return Ok(Waited::Ready),
                Ok(_) => return Ok(Waited::Rung),
                Err(errno) => return Err(self.lost(errno.into())),
            }
        }
    }

    // ---- what is wrong

    fn lost(&self, error: io::Error) -> Error {
        // Who closes with something unread resets the connection.
        if error.kind() == io::ErrorKind::ConnectionReset && self.unread.is_empty() {
            return self.hung_up();
        }
        self.passing(&format!("is lost: {error}"))
    }

    /// So does a server that comes to its end, and etcd when it is spoken with by http for https, or the reverse.
    fn hung_up(&self) -> Error {
        self.passing("has closed the connection without an answer (see the option protocol)")
    }

    /// Another try may do better.
    pub fn passing(&self, why: &str) -> Error {
        Error::Store { what: format!("etcd at {} {why}", self.server) }
    }

    /// It will not.
    pub fn lasting(&self, why: &str) -> Error {
        Error::Rendezvous { what: format!("the server at {} {why}", self.server) }
    }

    fn refused_by_tls(&self, error: rustls::Error) -> Error {
        match error {
            rustls::Error::InvalidCertificate(_) => self
                .lasting(&format!("has a certificate that is not accepted, see the option ca_cert: {error}")),
            rustls::Error::AlertReceived(_) => self.lasting(&format!(
                "refuses the connection by TLS, see the options ssl_cert and ssl_cert_key: {error}"
            )),
            _ => self.lasting(&format!("cannot be spoken with by https: {error}")),
        }
    }
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filled {
    More,
    Nothing,
    /// The server has closed the connection.
    End,
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The beginning of an answer, and how much of its body is still to come.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub status: u16,
    rest: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rest {
    /// So many bytes.
    Length(u64),
    /// The line before a chunk.
    ChunkSize,
    Chunk(u64),
    /// The line break after a chunk.
    ChunkEnd,
    /// Lines after the last chunk, up to an empty one.
    Trailer,
    /// Whatever comes until the connection is closed.
    UntilClose,
    Nothing,
}

impl Head {
    /// With its length; none if it has not come whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("is no etcd: it does not answer in HTTP ({error})")),
        };
        let status = response.code.unwrap_or(0);
        let mut rest = Rest::UntilClose;
        for header in response.headers {
            let value = String::from_utf8_lossy(header.value);
            if header.name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked")
            {
                rest = Rest::ChunkSize;
            } else if header.name.eq_ignore_ascii_case("content-length") && rest == Rest::UntilClose {
                let length = value.trim().parse();
                rest =
                    Rest::Length(length.map_err(|_| format!("is no etcd: it has a body of {value} bytes"))?);
            }
        }
        Ok(Some((Head { status, rest }, length)))
    }

    /// Moves what is of the body from one to the other. True when that was all.
    fn take(&mut self, from: &mut Vec<u8>, to: &mut Vec<u8>) -> Result<bool, &'static str> {
        let mut used = 0;
        while self.rest != Rest::Nothing {
            let left = &from[used..];
            let line = memchr::memchr(b'\n', left).map(|end| end + 1);
            let some = |length: u64| length.min(left.len() as u64) as usize;
            let (content, next, taken) = match self.rest {
                Rest::Length(0) => (0, Rest::Nothing, 0),
                Rest::Chunk(0) => (0, Rest::ChunkEnd, 0),
                _ if left.is_empty() => break,
                Rest::Length(length) => {
                    (some(length), Rest::Length(length - some(length) as u64), some(length))
                }
                Rest::Chunk(length) => {
                    (some(length), Rest::Chunk(length - some(length) as u64), some(length))
                }
                Rest::UntilClose => (left.len(), Rest::UntilClose, left.len()),
                Rest::ChunkSize => match httparse::parse_chunk_size(left) {
                    Ok(httparse::Status::Complete((taken, 0))) => (0, Rest::Trailer, taken),
                    Ok(httparse::Status::Complete((taken, length))) => (0, Rest::Chunk(length), taken),
                    Ok(httparse::Status::Partial) => break,
                    Err(_) => return Err("answers in chunks without a size"),
                },
                Rest::ChunkEnd | Rest::Trailer => {
                    let Some(taken) = line else { break };
                    let is_empty = left[..taken].trim_ascii().is_empty();
                    match (self.rest, is_empty) {
                        (Rest::ChunkEnd, true) => (0, Rest::ChunkSize, taken),
                        (Rest::ChunkEnd, false) => return Err("answers in chunks that do not end"),
                        (_, true) => (0, Rest::Nothing, taken),
                        (_, false) => (0, Rest::Trailer, taken),
                    }
                }
                Rest::Nothing => break,
            };
            to.extend_from_slice(&left[..content]);
            self.rest = next;
            used += taken;
        }
        from.drain(..used);
        Ok(self.rest == Rest::Nothing)
    }

    /// The connection was closed: that may have been the end.
    fn end(&mut self) -> Result<(), &'static str> {
        match self.rest {
            Rest::UntilClose => {
                self.rest = Rest::Nothing;
                Ok(())
            }
            _ => Err("has closed the connection"),
        }
    }
}

/// All of an answer, which comes in parts of this size; its body, and what is behind it, too.
#[cfg(any(test, fuzzing))]
pub fn read_in_parts(answer: &[u8], part: usize) -> Result<(Head, Vec<u8>, Vec<u8>), String> {
    let (mut head, mut unread, mut body) = (None, Vec::new(), Vec::new());
    for part in answer.chunks(part) {
        unread.extend_from_slice(part);
        if head.is_none() {
            head = Head::parse(&unread)?.map(|(head, length)| {
                unread.drain(..length);
                head
            });
        }
        if let Some(head) = &mut head {
            head.take(&mut unread, &mut body)?;
        }
    }
    Ok((head.ok_or("no head")?, body, unread))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";

    fn read(answer: &[u8], part: usize) -> Result<(Head, String, Vec<u8>), String> {
        let (head, body, unread) = read_in_parts(answer, part)?;
        Ok((head, String::from_utf8(body).unwrap(), unread))
    }

    #[test]
    fn an_answer_is_read_however_it_is_cut() {
        let chunks = [HEAD, "5\r\n{\"a\":\r\nA;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\nrest"].concat();
        let length = "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nnotrest";
        for part in 1..chunks.len() {
            let (head, body, unread) = read(chunks.as_bytes(), part).unwrap();
            assert_eq!((head.status, body.as_str(), &unread[..]), (200, "{\"a\":0123456789", &b"rest"[..]));
            let (head, body, unread) = read(length.as_bytes(), part).unwrap();
            assert_eq!((head.status, head.rest, body.as_str()), (404, Rest::Nothing, "not"));
            assert_eq!(unread, b"rest");
        }
    }

    #[test]
    fn one_without_a_length_ends_with_the_connection() {
        let (mut head, body, _) = read(b"HTTP/1.0 400 Bad Request\r\n\r\nhttp, please", 7).unwrap();
        assert_eq!((head.status, body.as_str(), head.end()), (400, "http, please", Ok(())));
        let (mut head, ..) = read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", 7).unwrap();
        assert!(head.end().is_err());
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for text in ["SSH-2.0-x\r\n", "\u{15}\u{3}\u{3}", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert!(read(text.as_bytes(), 99).unwrap_err().contains("is no etcd"), "{text}");
        }
        for body in ["x\r\n", "1\r\nab\r\n"] {
            assert!(read([HEAD, body].concat().as_bytes(), 99).unwrap_err().contains("chunks"), "{body}");
        }
    }

    /// What comes of a request to a server that says `begin`, and then `again` for ever.
    fn told_for_ever(begin: &str, again: &[u8], pause: Duration) -> Error {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Endpoint { host: "127.0.0.1".into(), port };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = listener.accept().unwrap();
                let mut said = client.write_all(begin.as_bytes());
                while said.is_ok() {
                    std::thread::sleep(pause);
                    said = client.write_all(again);
                }
            });
            let by = Instant::now() + Duration::from_millis(300);
            let mut connection = Connection::open(&server, None, &Interrupter::default(), by).unwrap();
            connection.post("/", None, "{}", by).map(|_| ()).unwrap_err()
        })
    }

    #[test]
    fn etcd_an_answer_has_an_end_in_time_and_in_size() {
        let trickle = Duration::from_millis(5);
        let begun = Instant::now();
        for begin in
            ["", "HTTP/1.1 200 OK\r\nA: ", HEAD, &[HEAD, "0\r\nT: "].concat(), &[HEAD, "9999\r\n"].concat()]
        {
            // A size of a chunk, text of a header, or of a body.
            let why = told_for_ever(begin, b"1", trickle).to_string();
            let is_told = why.contains("in time") || why.contains("in HTTP") || why.contains("chunks");
            assert!(is_told, "{begin:?}: {why}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        let long = vec![b'x'; CHUNK];
        for (begin, part) in [
            ("HTTP/1.1 200 OK\r\nA: ", "does not end what it says"),
            (&[HEAD, "0\r\nT: "].concat(), "a line that does not end"),
            (&[HEAD, "1\r\na\r\n0\r\n"].concat(), "a line that does not end"),
            ("HTTP/1.1 200 OK\r\n\r\n", "more than can be"),
        ] {
            let why = told_for_ever(begin, &long, Duration::ZERO).to_string();
            // A machine that is busy may not get to the end of it in that time.
            assert!(why.contains(part) || why.contains("in time"), "{begin:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), part in 1..9usize) {
            let _ = read(&[HEAD.as_bytes(), &bytes].concat(), part);
            let _ = read(&bytes, part);
        }
    }
}

//! The connection for requests, and what etcd says to them.

use std::net::IpAddr;
use std::time::Instant;

use serde_json::{Value, json};

use super::api::Refused;
use super::http::{Answer, Connection};
use crate::error::Error;
use crate::spec::endpoint::Endpoint;

#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

pub struct Link {
    connection: Connection,
    pub server: Endpoint,
    /// What etcd has given this user.
    pub token: Option<String>,
}

impl Link {
    /// Says who is speaking, if etcd wants to know.
    pub fn open(
        connection: Connection,
        server: &Endpoint,
        login: Option<&Login>,
        by: Instant,
    ) -> Result<Link, Error> {
        let mut link = Link { connection, server: server.clone(), token: None };
        if let Some(Login { user, password }) = login {
            match link.try_ask("auth/authenticate", json!({ "name": user, "password": password }), by)? {
                Ok(answer) => link.token = answer["token"].as_str().map(str::to_string),
                Err(refused) if refused.is_open_to_all() => {}
                Err(refused) => return Err(refused.at(&link.connection)),
            }
        }
        Ok(link)
    }

    pub fn ask(&mut self, what: &str, body: Value, by: Instant) -> Result<Value, Error> {
        self.try_ask(what, body, by)?.map_err(|refused| refused.at(&self.connection))
    }

    fn try_ask(&mut self, what: &str, body: Value, by: Instant) -> Result<Result<Value, Refused>, Error> {
        let (path, token) = (format!("/v3/{what}"), self.token.as_deref());
        let answer = self.connection.post(&path, token, &body.to_string(), by)?;
        understand(&self.connection, &answer)
    }

    /// The address of this host on the way to the server.
    pub fn local_address(&self) -> Option<IpAddr> {
        self.connection.local_address()
    }

    pub fn passing(&self, why: &str) -> Error {
        self.connection.passing(why)
    }
}

impl Refused {
    fn at(&self, connection: &Connection) -> Error {
        let Refused { message, .. } = self;
        let hint = match (self.is_about_users(), self.is_of_the_gateway()) {
            (true, _) => " (see the options user and password)",
            (_, true) => {
                " (so says its gateway: with --client-cert-auth the server's certificate is a client's as well)"
            }
            _ => "",
        };
        let why = format!("refuses: {message}{hint}");
        if self.is_lasting() { connection.lasting(&why) } else { connection.passing(&why) }
    }
}

fn understand(connection: &Connection, answer: &Answer) -> Result<Result<Value, Refused>, Error> {
    let Answer { status, body } = answer;
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let text = text.trim();
    match (status, Refused::parse(body)) {
        (200, _) => match serde_json::from_slice(body) {
            Ok(value) => Ok(Ok(value)),
            Err(_) => Err(connection.lasting(&format!("is no etcd: it answers {text:?}"))),
        },
        (_, Some(refused)) => Ok(Err(refused)),
        (500.., None) => Err(connection.passing(&format!("fails: status {status}: {text:?}"))),
        (404, None) => Err(connection.lasting("is no etcd of version 3.4 or newer with its gRPC gateway")),
        (_, None) => {
            Err(connection.lasting(&format!("is no etcd: it answers with status {status}: {text:?}")))
        }
    }
}

/// Makes sure that an answer that goes on is none that refuses.
pub fn check(connection: &Connection, answer: &Answer) -> Result<(), Error> {
    understand(connection, answer)?.map(drop).map_err(|refused| refused.at(connection))
}

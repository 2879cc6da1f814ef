//! How the agents of several hosts become one job: who takes part in which round, as which node, until when.
//!
//! There is a chain of states, each the key `state/N`, made once and never changed: whoever makes a key first has
//! written the state, and who waits for the next key is told of it at once. One agent, the leader, writes them. What
//! the others have to say goes to an inbox, the keys `inbox/N`, whose numbers come from a counter; a state says how
//! many of them it takes account of, so that another agent can go on where a leader was lost. Each agent counts up
//! `beat/ID`; the leader looks at those of all, they look at the leader's. A round so costs each agent a handful of
//! operations whatever the number of nodes, and nobody polls.
//!
//! `state`, `request` and `leader` are pure; `member` is an agent's thread around them; a `backend` is where the keys are;
//! `backends` has all of them.

pub mod backend;
pub mod backends;
pub mod config;
pub mod hosting;
pub mod leader;
pub mod member;
pub mod request;
pub mod roll;
pub mod secret;
#[cfg(test)]
mod simulation;
pub mod state;

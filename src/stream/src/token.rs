//! One-time URLs. An RPC leaves its parameters here and gets a path; the first request for
//! that path takes them away, whatever comes of it.
//!
//! 128 random bits, one use, a short life, a bounded number (CVE-2020-8559 class: whoever can
//! reach the port must not be able to guess, replay or hoard).

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use spec::Kind;
use tokio::time::Instant;

use crate::backend::{AttachParams, BackendError, ExecParams, PortForwardParams};

/// Most URLs that may wait for their client at once.
pub(crate) const MAX_OUTSTANDING: usize = 1000;

/// What a URL stands for.
#[derive(Debug, Clone)]
pub(crate) enum Ticket {
    Exec(ExecParams),
    Attach(AttachParams),
    PortForward(PortForwardParams),
}

impl Ticket {
    /// The first part of the path.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The tickets that wait.
#[derive(Debug)]
pub(crate) struct Tokens {
    life: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_token: HashMap<String, (Instant, Ticket)>,
    /// Oldest first. A token that was taken stays here until its time is over.
    by_age: VecDeque<(Instant, String)>,
}

impl Waiting {
    fn forget_expired(&mut self, now: Instant) {
        while let Some((end, token)) = self.by_age.front() {
            if *end > now && self.by_token.contains_key(token) {
                break;
            }
            self.by_token.remove(token);
            self.by_age.pop_front();
        }
        // Tokens that were taken behind one that waits: not more of them than waiting ones.
        if self.by_age.len() >= 2 * MAX_OUTSTANDING {
            let by_token = &self.by_token;
            self.by_age.retain(|(_, token)| by_token.contains_key(token));
        }
    }
}

impl Tokens {
    pub(crate) fn new(life: Duration) -> Self {
        Self {
            life,
            waiting: Mutex::default(),
        }
    }

    /// Keeps `ticket`; the token that takes it away.
    pub(crate) fn insert(&self, ticket: Ticket) -> Result<String, BackendError> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|e| BackendError {
            kind: Kind::Internal,
            message: format!("no random bytes for a streaming URL: {e}"),
        })?;
        let token = random.iter().fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a String cannot fail.
            write!(hex, "{byte:02x}").ok();
            hex
        });
        let now = Instant::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.forget_expired(now);
        if waiting.by_token.len() >= MAX_OUTSTANDING {
            return Err(BackendError {
                kind: Kind::ResourceExhausted,
                message: format!(
                    "{MAX_OUTSTANDING} streaming URLs wait for their clients; each is forgotten after {} s",
                    self.life.as_secs()
                ),
            });
        }
        waiting.by_age.push_back((now + self.life, token.clone()));
        waiting.by_token.insert(token.clone(), (now + self.life, ticket));
        Ok(token)
    }

    /// Takes the ticket of a token away, if it is of this verb and not too old.
    pub(crate) fn take(&self, verb: &str, token: &str) -> Option<Ticket> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, ticket) = waiting.by_token.remove(token)?;
        (end > Instant::now() && ticket.verb() == verb).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket::PortForward(PortForwardParams {
            sandbox_id: "pod".to_owned(),
            ports: vec![],
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_works_once_for_its_verb_and_for_a_minute() {
        let tokens = Tokens::new(Duration::from_secs(60));
        let token = tokens.insert(ticket()).unwrap();
        assert_eq!(token.len(), 32);
        assert!(tokens.take("portforward", &token).is_some());
        assert!(tokens.take("portforward", &token).is_none());
        let token = tokens.insert(ticket()).unwrap();
        assert!(tokens.take("exec", &token).is_none());
        assert!(tokens.take("portforward", &token).is_none(), "a wrong use is a use");
        let token = tokens.insert(ticket()).unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(tokens.take("portforward", &token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn their_number_is_bounded_and_recovers() {
        let tokens = Tokens::new(Duration::from_secs(60));
        let first = tokens.insert(ticket()).unwrap();
        for _ in 1..MAX_OUTSTANDING {
            tokens.insert(ticket()).unwrap();
        }
        assert_eq!(tokens.insert(ticket()).unwrap_err().kind, Kind::ResourceExhausted);
        tokens.take("portforward", &first).unwrap();
        tokens.insert(ticket()).unwrap();
        tokens.insert(ticket()).unwrap_err();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokens.insert(ticket()).unwrap();
        let waiting = tokens.waiting.lock().unwrap();
        assert_eq!((waiting.by_token.len(), waiting.by_age.len()), (1, 1));
    }
}

//! What the links inside pods' network namespaces have carried.
//!
//! A netlink socket belongs to the namespace that it was made in, for ever. So one thread enters the namespaces that have
//! none yet, makes one in each and ends; from then on the kernel is asked from where we are. A socket keeps its namespace
//! alive: it is closed before the pod's network is taken down, and none is made afterwards.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cni_netlink::link::{Counters, list_counters};
use cni_netlink::{NetNs, Socket};

use crate::error::Error;
use crate::kept::{Place, Places};
use crate::store::records::SandboxPhase;
use crate::store::sandbox::Sandbox;

/// A pod's socket.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Unopened,
    /// Without a place it is closed again after one question.
    Open(Socket, Option<Place>),
    Closed,
}

impl Links {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the network, for good.
    pub(crate) fn close(&self) {
        *self.state() = State::Closed;
    }

    fn is_wanted(&self) -> bool {
        matches!(*self.state(), State::Unopened)
    }

    fn set(&self, socket: Socket, place: Option<Place>) {
        let mut state = self.state();
        // Somebody else may have been faster, or the pod may have been stopped meanwhile.
        if matches!(*state, State::Unopened) {
            *state = State::Open(socket, place);
        }
    }

    /// What the links have carried, `lo` left out; none where there is no socket.
    fn ask(&self, buffer: &mut Vec<u8>) -> Option<Result<Vec<Counters>, cni_netlink::Error>> {
        let mut state = self.state();
        let State::Open(socket, place) = &mut *state else {
            return None;
        };
        socket.swap_buffer(buffer);
        let all = socket.dump(&list_counters(), "links");
        socket.swap_buffer(buffer);
        // After a failure answers may be left in it.
        if place.is_none() || all.is_err() {
            *state = State::Unopened;
        }
        let read = |all: &[_]| {
            all.iter()
                .filter_map(Counters::parse)
                .filter(|link| link.name != "lo")
                .collect()
        };
        Some(all.map(|all| read(&all)))
    }
}

/// Whether there is traffic of its own to be read.
fn has_own(pod: &Sandbox) -> bool {
    pod.phase() == SandboxPhase::Ready && !pod.host_network()
}

fn lacks_one(pod: &Arc<Sandbox>) -> bool {
    has_own(pod) && pod.links.is_wanted()
}

/// Whether [`open`] has anything to do.
pub(crate) fn is_wanted(pods: &[Arc<Sandbox>]) -> bool {
    pods.iter().any(lacks_one)
}

/// Makes the sockets that are not there yet. What cannot be entered is left out, and logged.
pub(crate) fn open(places: &Places, pods: &[Arc<Sandbox>]) -> Result<(), Error> {
    let pods: Vec<Arc<Sandbox>> = pods.iter().filter(|pod| lacks_one(pod)).cloned().collect();
    let places = places.clone();
    let round = std::thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        let home = NetNs::current()?;
        for pod in &pods {
            let path = Path::new(&pod.record.netns);
            match NetNs::open(path).and_then(|ns| ns.within(&home, Socket::route)) {
                Ok(socket) => pod.links.set(socket, places.take(1)),
                // It did not come home: what follows would be made in the wrong place.
                Err(error) if !NetNs::current()?.same(&home)? => return Err(error),
                Err(error) => {
                    let error = crate::error::chain_of(&error);
                    tracing::debug!(namespace = %path.display(), error, "its traffic cannot be read");
                }
            }
        }
        Ok::<_, cni_netlink::Error>(())
    });
    let round = round.map_err(|e| Error::at("start", "a thread", &e))?;
    let made = round.join().map_err(|_| {
        Error::new(
            spec::Kind::Internal,
            "the entering of the pods' networks ended without a result",
        )
    })?;
    made.map_err(|e| Error::at("enter", "the pods' networks", &e))
}

/// The traffic of a pod; none for one on the host's network, or that is not ready. `buffer` may be used for many.
pub(crate) fn read(pod: &Sandbox, buffer: &mut Vec<u8>) -> Option<Vec<Counters>> {
    if !has_own(pod) {
        return None;
    }
    match pod.links.ask(buffer)? {
        Ok(links) => Some(links),
        Err(error) => {
            let error = crate::error::chain_of(&error);
            tracing::debug!(pod = %pod.id, error, "its traffic cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_stays_where_there_is_a_place_for_it_and_never_after_the_stop() {
        let (links, places, mut buffer) = (Links::default(), Places::of_this_process(), Vec::new());
        assert!(links.is_wanted() && links.ask(&mut buffer).is_none());
        links.set(Socket::route().unwrap(), None);
        let first = links.ask(&mut buffer).unwrap().unwrap();
        assert!(first.iter().all(|link| link.name != "lo"));
        assert!(links.is_wanted() && links.ask(&mut buffer).is_none());
        links.set(Socket::route().unwrap(), places.take(1));
        for _ in 0..2 {
            let names = |all: &[Counters]| all.iter().map(|link| link.name.clone()).collect::<Vec<_>>();
            let again = links.ask(&mut buffer).unwrap().unwrap();
            assert_eq!(names(&again), names(&first));
        }
        links.close();
        links.set(Socket::route().unwrap(), places.take(1));
        assert!(links.ask(&mut buffer).is_none() && !links.is_wanted());
    }
}

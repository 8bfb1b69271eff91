//! With whom limits are shared: who is there, and whether all of them have told what they charged while the place where
//! windows are shared did not answer.

use std::collections::HashMap;

use crate::account::quota::Stamp;

/// Who is silent for so many beats of ours is not waited for.
const PATIENCE: u32 = 10;

/// The replicas.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Who was there when all had told what they charged.
    known: Vec<String>,
    /// Since when we are back, by the server's clock; none: all are.
    back_since: Option<Stamp>,
    /// How often we have asked since then. A time that ended before all were back counts as well: who never comes back must
    /// not hold up the others for as long as the server fails now and then.
    beats: u32,
}

impl Peers {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        (self.known.len() as u64).max(1)
    }

    /// Whether all have told what they charged, as far as we know.
    pub(super) const fn are_back(&self) -> bool {
        self.back_since.is_none()
    }

    /// The server answers again, by its clock since now.
    pub(super) const fn back(&mut self, now: Stamp) {
        self.back_since = Some(now);
    }

    /// Who is there, and when each of them has last said so. They say so after they have told what they charged. Gives
    /// whether this was what was waited for.
    pub(super) fn heard(&mut self, present: HashMap<String, Stamp>) -> bool {
        let Some(since) = self.back_since else {
            self.known = present.into_keys().collect();
            return false;
        };
        self.beats += 1;
        let is_back = |name: &String| present.get(name).is_some_and(|said| *said >= since);
        if !self.known.iter().all(is_back) && self.beats < PATIENCE {
            return false;
        }
        *self = Self { known: present.into_keys().collect(), back_since: None, beats: 0 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(peers: &mut Peers, present: &[(&str, u64)]) -> (bool, u64) {
        let is_over =
            peers.heard(present.iter().map(|(name, said)| ((*name).to_owned(), Stamp(*said))).collect());
        assert!(!is_over || peers.are_back());
        (is_over, peers.count())
    }

    #[test]
    fn those_that_were_there_are_waited_for_by_name() {
        let mut peers = Peers::default();
        assert_eq!((peers.are_back(), peers.count()), (true, 1));
        peers.back(Stamp(10));
        assert_eq!(heard(&mut peers, &[("a", 10)]), (true, 1), "nobody else is known at the start");
        assert_eq!(heard(&mut peers, &[("a", 11), ("b", 11), ("c", 11)]), (false, 3));
        assert_eq!(heard(&mut peers, &[("a", 12), ("b", 12)]), (false, 2), "one has left");
        peers.back(Stamp(20));
        assert_eq!(heard(&mut peers, &[("a", 20), ("b", 19)]), (false, 2), "this was before");
        assert_eq!(heard(&mut peers, &[("a", 21), ("new", 21)]), (false, 2), "who is new tells nothing of b");
        assert!(!peers.are_back());
        assert_eq!(heard(&mut peers, &[("a", 22), ("new", 22), ("b", 20)]), (true, 3));
    }

    #[test]
    fn who_never_comes_back_is_waited_for_once_though_the_server_fails_again() {
        let mut peers = Peers::default();
        heard(&mut peers, &[("a", 1), ("b", 1)]);
        for outage in 0..3 {
            peers.back(Stamp(10 + outage));
            for _ in 0..3 {
                assert_eq!(heard(&mut peers, &[("a", 20)]), (false, 2));
            }
        }
        peers.back(Stamp(40));
        assert_eq!(heard(&mut peers, &[("a", 41)]), (true, 1));
    }
}

//! Nothing is told before it is on disk: answers that wait for the files they depend on.
//!
//! A store is asked for under a token; whatever is said while it is on its way waits for it, also
//! what does not depend on it, so that answers leave in the order in which they were decided.
//! Invariant: an answer leaves when every store asked for before it is done.

use std::collections::VecDeque;

use lockstep_proto::process::{Effect, Outputs};
use lockstep_proto::stored::Stored;

/// Stores on their way, and the answers of type `A` that wait for them.
#[derive(Debug)]
pub(super) struct Vault<A> {
    token_last: u64,
    on_their_way: VecDeque<Store<A>>,
    answers: usize,
}

#[derive(Debug)]
struct Store<A> {
    token: u64,
    done: bool,
    answers: Vec<A>,
}

impl<A> Vault<A> {
    pub(super) fn new() -> Self {
        Self { token_last: 0, on_their_way: VecDeque::new(), answers: 0 }
    }

    /// Asks for `content` to be stored: the token that tells when it is.
    pub(super) fn store<T: Stored>(&mut self, content: &T, out: &mut Outputs) -> u64 {
        self.token_last += 1;
        let token = self.token_last;
        self.on_their_way.push_back(Store { token, done: false, answers: Vec::new() });
        out.effect(Effect::Store { token, file: T::FILE, bytes: content.to_file() });
        token
    }

    /// Keeps `answer` until everything asked for is stored; gives it back if nothing is on its way.
    pub(super) fn hold(&mut self, answer: A) -> Option<A> {
        let Some(last) = self.on_their_way.back_mut() else { return Some(answer) };
        last.answers.push(answer);
        self.answers += 1;
        None
    }

    /// How many answers wait.
    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// A store is done: the answers that may leave now, in order.
    pub(super) fn on_stored(&mut self, token: u64) -> Vec<A> {
        if let Some(store) = self.on_their_way.iter_mut().find(|store| store.token == token) {
            store.done = true;
        }
        let mut free = Vec::new();
        while self.on_their_way.front().is_some_and(|store| store.done) {
            free.extend(self.on_their_way.pop_front().into_iter().flat_map(|s| s.answers));
        }
        self.answers -= free.len();
        free
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::ids::{ClusterId, NodeInstance};
    use lockstep_proto::stored::StoredIdentity;

    use super::*;

    #[test]
    fn answers_leave_in_order_when_all_earlier_stores_are_done() {
        let content = StoredIdentity { cluster: ClusterId(1), instance: NodeInstance::default() };
        let mut out = Outputs::new();
        let mut vault = Vault::new();
        assert_eq!(vault.hold('a'), Some('a'));
        vault.store(&content, &mut out);
        assert_eq!(vault.hold('b'), None);
        vault.store(&content, &mut out);
        assert_eq!(vault.hold('c'), None);
        assert_eq!(vault.on_stored(2), []);
        assert_eq!(vault.answers(), 2);
        assert_eq!(vault.on_stored(1), ['b', 'c']);
        assert_eq!(vault.hold('d'), Some('d'));
    }
}

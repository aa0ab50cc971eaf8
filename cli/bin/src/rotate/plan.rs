//! The steps of a rotation that are left, computed from the state of the files. No other state is kept, so that a command
//! that was killed can continue.

use std::fmt;

/// A step to carry out, or to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Create the new CA.
    NewCa,
    /// Trust the new CA beside the old one.
    Trust,
    /// Make a peer trust both CAs.
    PeerTrusts(String),
    /// Wait until a peer whose directory is not at hand trusts both CAs.
    AskPeer(String),
    /// Wait until the etcd has read the new CA.
    EtcdTrusts,
    /// Sign with the new CA from now on.
    Sign,
    /// Issue one of the cluster's certificates.
    Issue(Leaf),
    /// Issue a peer's certificate.
    IssueFor(String),
    /// Wait for a request of a peer whose directory is not at hand.
    AskPeerForRequest(String),
    /// Make a peer trust the new CA only.
    PeerForgets(String),
    /// Trust the new CA only.
    Forget,
    /// Remove the files that only the rotation needs.
    Clean,
    /// Wait until the etcd does not trust the old CA any more.
    EtcdForgets,
}

/// One of the cluster's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// Its etcd's.
    Server,
    /// Its apiserver's.
    Admin,
    /// Its agents'.
    Local,
}

/// The state of the cluster's files, and of its peers'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// There is a new CA, and the old one may still be trusted.
    pub(crate) begun: bool,
    /// The new CA is trusted.
    pub(crate) trusted: bool,
    /// The new CA signs.
    pub(crate) signs: bool,
    /// The new CA is the only trusted one.
    pub(crate) alone: bool,
    /// There are files that only a rotation needs.
    pub(crate) leftovers: bool,
    /// The cluster's certificates that must be issued again.
    pub(crate) stale: Vec<Leaf>,
    /// The clusters that follow this one.
    pub(crate) peers: Vec<PeerFacts>,
}

/// A cluster that follows this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerFacts {
    pub(crate) name: String,
    /// Its directory can be read and written.
    pub(crate) at_hand: bool,
    /// The operator confirmed with `--peer-done` that it has the new files.
    pub(crate) done: bool,
    /// It trusts the new CA.
    pub(crate) trusts: bool,
    /// It trusts the new CA only; or, while there is none, the one that signs.
    pub(crate) alone: bool,
    /// Its certificate must be issued again.
    pub(crate) stale: bool,
}

// === impl Leaf ===

impl Leaf {
    pub(crate) const ALL: [Self; 3] = [Self::Server, Self::Admin, Self::Local];

    /// The name of its files, without extension.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Admin => "admin",
            Self::Local => "local",
        }
    }
}

/// The steps until both CAs are trusted, and the new one has signed all certificates.
pub(crate) fn exchange(facts: &Facts) -> Vec<Todo> {
    if facts.begun && facts.signs && facts.alone {
        // The command was killed at the end of `--finish`.
        return if facts.leftovers { vec![Todo::Clean] } else { Vec::new() };
    }
    let mut todo = Vec::new();
    if !facts.begun {
        todo.push(Todo::NewCa);
    }
    if !facts.trusted {
        todo.push(Todo::Trust);
    }
    for peer in facts.peers.iter().filter(|peer| !peer.trusts && !peer.done) {
        todo.push(match peer.at_hand {
            true => Todo::PeerTrusts(peer.name.clone()),
            false => Todo::AskPeer(peer.name.clone()),
        });
    }
    if !facts.signs {
        todo.extend([Todo::EtcdTrusts, Todo::Sign]);
    }
    todo.extend(facts.stale.iter().copied().map(Todo::Issue));
    let stale = facts.peers.iter().filter(|peer| peer.at_hand && peer.stale);
    todo.extend(stale.map(|peer| Todo::IssueFor(peer.name.clone())));
    todo
}

/// The steps until only the new CA is trusted; or the reasons for which the old one is still needed.
pub(crate) fn finish(facts: &Facts) -> Result<Vec<Todo>, Vec<String>> {
    let mut todo = Vec::new();
    if facts.begun {
        let mut dependent = Vec::new();
        if !facts.trusted || !facts.signs {
            dependent.push("the old CA still signs".into());
        }
        for leaf in &facts.stale {
            dependent.push(format!("the certificate {}.crt is signed by the old CA", leaf.name()));
        }
        for PeerFacts { name, at_hand, done, trusts, stale, .. } in &facts.peers {
            match (at_hand, done) {
                (true, _) if !trusts => {
                    dependent.push(format!("{name} does not trust the new CA"));
                }
                (true, _) if *stale => {
                    dependent.push(format!("the certificate of {name} is signed by the old CA"));
                }
                (false, false) => dependent.push(format!(
                    "{name} cannot be checked, as its context is not at hand: name it with --peer-context, or add --peer-done {name} when it trusts the new CA and has a certificate of it"
                )),
                _ => {}
            }
        }
        if !dependent.is_empty() {
            return Err(dependent);
        }
        if !facts.alone {
            todo.push(Todo::Forget);
        }
    }
    // Also after a command that was killed when no rotation was in progress any more.
    let both = facts.peers.iter().filter(|peer| peer.at_hand && !peer.alone);
    todo.extend(both.map(|peer| Todo::PeerForgets(peer.name.clone())));
    if facts.begun && facts.leftovers {
        todo.push(Todo::Clean);
    }
    todo.push(Todo::EtcdForgets);
    Ok(todo)
}

/// The steps to issue new certificates with the present CA.
pub(crate) fn reissue(facts: &Facts) -> Vec<Todo> {
    let own = facts.stale.iter().copied().map(Todo::Issue);
    let peers = facts.peers.iter().filter(|peer| peer.stale).filter_map(|peer| {
        match (peer.at_hand, peer.done) {
            (true, _) => Some(Todo::IssueFor(peer.name.clone())),
            (false, false) => Some(Todo::AskPeerForRequest(peer.name.clone())),
            (false, true) => None,
        }
    });
    own.chain(peers).collect()
}

impl fmt::Display for Todo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewCa => f.write_str("make a new CA (ca-next)"),
            Self::Trust => f.write_str("trust the new CA beside the old one (ca.crt)"),
            Self::PeerTrusts(peer) => write!(f, "have {peer} trust both CAs"),
            Self::AskPeer(peer) => write!(f, "wait for {peer} to trust both CAs"),
            Self::EtcdTrusts => f.write_str("have the etcd read the new CA"),
            Self::Sign => f.write_str("sign with the new CA from now on (ca.key)"),
            Self::Issue(leaf) => write!(f, "issue the certificate {0}.crt, {0}.key", leaf.name()),
            Self::IssueFor(peer) => write!(f, "issue the certificate of {peer}"),
            Self::AskPeerForRequest(peer) => write!(f, "wait for a request of {peer}"),
            Self::PeerForgets(peer) => write!(f, "have {peer} trust the new CA only"),
            Self::Forget => f.write_str("trust the new CA only (ca.crt)"),
            Self::Clean => f.write_str("remove ca-next"),
            Self::EtcdForgets => f.write_str("have the etcd forget the old CA"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, at_hand: bool) -> PeerFacts {
        PeerFacts { name: name.into(), at_hand, stale: true, ..PeerFacts::default() }
    }

    #[test]
    fn trusted_everywhere_before_anything_is_issued() {
        let facts = Facts {
            stale: Leaf::ALL.to_vec(),
            peers: vec![peer("b", true), peer("c", false)],
            ..Facts::default()
        };
        let todo = exchange(&facts);
        let expected = [
            Todo::NewCa,
            Todo::Trust,
            Todo::PeerTrusts("b".into()),
            Todo::AskPeer("c".into()),
            Todo::EtcdTrusts,
            Todo::Sign,
            Todo::Issue(Leaf::Server),
            Todo::Issue(Leaf::Admin),
            Todo::Issue(Leaf::Local),
            Todo::IssueFor("b".into()),
        ];
        assert_eq!(todo, expected);
    }

    #[test]
    fn finished_only_when_nothing_depends_on_the_old_one() {
        let facts = Facts {
            begun: true,
            trusted: true,
            signs: true,
            stale: vec![Leaf::Local],
            peers: vec![
                PeerFacts { trusts: true, ..peer("b", true) },
                peer("c", false),
                PeerFacts { done: true, ..peer("d", false) },
            ],
            ..Facts::default()
        };
        let dependent = finish(&facts).unwrap_err();
        for (says, message) in
            ["local.crt", "of b is signed by the old", "--peer-done c"].iter().zip(&dependent)
        {
            assert!(message.contains(says), "{message}");
        }
        assert_eq!(dependent.len(), 3);
        let facts = Facts {
            stale: vec![],
            peers: vec![PeerFacts { trusts: true, stale: false, ..peer("b", true) }],
            ..facts
        };
        let todo = finish(&facts).unwrap();
        assert_eq!(todo, [Todo::Forget, Todo::PeerForgets("b".into()), Todo::EtcdForgets]);
        assert!(finish(&Facts { signs: false, ..facts }).is_err());
        // No rotation is in progress: only the etcd may still trust an old CA.
        assert_eq!(finish(&Facts::default()).unwrap(), [Todo::EtcdForgets]);
    }

    #[test]
    fn a_peer_far_away_keeps_no_other_peer_waiting_for_a_certificate() {
        let facts = Facts {
            stale: vec![Leaf::Admin],
            peers: vec![
                peer("c", false),
                peer("b", true),
                PeerFacts { done: true, ..peer("d", false) },
            ],
            ..Facts::default()
        };
        let expected = [
            Todo::Issue(Leaf::Admin),
            Todo::AskPeerForRequest("c".into()),
            Todo::IssueFor("b".into()),
        ];
        assert_eq!(reissue(&facts), expected);
    }
}

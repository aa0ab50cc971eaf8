//! What is left to do, worked out from what there is. Nothing else is remembered: a command that was killed begins here.

use std::fmt;

/// Something to do, or to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Make the CA that takes over.
    NewCa,
    /// Trust it beside the old one.
    Trust,
    /// Have a peer trust both.
    PeerTrusts(String),
    /// A peer whose directory is not at hand must trust both.
    AskPeer(String),
    /// The etcd must have read the new CA.
    EtcdTrusts,
    /// From now on the new CA signs.
    Sign,
    /// Issue one of the cluster's own certificates.
    Issue(Leaf),
    /// Issue a peer's certificate.
    IssueFor(String),
    /// A peer whose directory is not at hand needs a new certificate.
    AskPeerForRequest(String),
    /// Have a peer trust the new CA only.
    PeerForgets(String),
    /// Trust the new CA only.
    Forget,
    /// Remove what only the change needed.
    Clean,
    /// The etcd must have forgotten the old CA.
    EtcdForgets,
}

/// One of a cluster's own certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// Its etcd's.
    Server,
    /// Its apiserver's.
    Admin,
    /// Its agents'.
    Local,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// There is a CA that takes over, or took over and is not alone yet.
    pub(crate) begun: bool,
    /// It is trusted.
    pub(crate) trusted: bool,
    /// It signs.
    pub(crate) signs: bool,
    /// No other is trusted.
    pub(crate) alone: bool,
    /// Files that only the change needs are there.
    pub(crate) leftovers: bool,
    /// The cluster's own certificates that are to be issued.
    pub(crate) stale: Vec<Leaf>,
    /// Clusters that follow this one.
    pub(crate) peers: Vec<PeerFacts>,
}

/// A cluster that follows this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerFacts {
    pub(crate) name: String,
    /// Its directory can be read and written.
    pub(crate) at_hand: bool,
    /// The operator says that it has all it needs.
    pub(crate) done: bool,
    /// It trusts the CA that takes over.
    pub(crate) trusts: bool,
    /// It trusts no other.
    pub(crate) alone: bool,
    /// Its certificate is to be issued.
    pub(crate) stale: bool,
}

// === impl Leaf ===

impl Leaf {
    pub(crate) const ALL: [Self; 3] = [Self::Server, Self::Admin, Self::Local];

    /// Its files are called so.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Admin => "admin",
            Self::Local => "local",
        }
    }
}

/// The way to both CAs trusted and everything issued by the new one.
pub(crate) fn exchange(facts: &Facts) -> Vec<Todo> {
    if facts.begun && facts.signs && facts.alone {
        // Killed while it was finished.
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

/// The way to the new CA alone; or what still depends on the old one.
pub(crate) fn finish(facts: &Facts) -> Result<Vec<Todo>, Vec<String>> {
    let mut todo = Vec::new();
    if facts.begun {
        let mut dependent = Vec::new();
        if !facts.trusted || !facts.signs {
            dependent.push("the old CA still signs".into());
        }
        for leaf in &facts.stale {
            dependent.push(format!("the certificate {}.crt is by the old CA", leaf.name()));
        }
        for PeerFacts { name, at_hand, done, trusts, stale, .. } in &facts.peers {
            match (at_hand, done) {
                (true, _) if !trusts => {
                    dependent.push(format!("{name} does not trust the new CA"));
                }
                (true, _) if *stale => {
                    dependent.push(format!("the certificate of {name} is by the old CA"));
                }
                (false, false) => dependent.push(format!(
                    "{name} cannot be looked at, its context is not at hand: name it with --peer-context, or say --peer-done {name} when it trusts the new CA and has a certificate by it"
                )),
                _ => {}
            }
        }
        if !dependent.is_empty() {
            return Err(dependent);
        }
        let both = facts.peers.iter().filter(|peer| peer.at_hand && !peer.alone);
        todo.extend(both.map(|peer| Todo::PeerForgets(peer.name.clone())));
        if !facts.alone {
            todo.push(Todo::Forget);
        }
        if facts.leftovers {
            todo.push(Todo::Clean);
        }
    }
    todo.push(Todo::EtcdForgets);
    Ok(todo)
}

/// New certificates by the CA that signs.
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
            ["local.crt", "of b is by the old", "--peer-done c"].iter().zip(&dependent)
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
        assert_eq!(todo, [Todo::PeerForgets("b".into()), Todo::Forget, Todo::EtcdForgets]);
        assert!(finish(&Facts { signs: false, ..facts }).is_err());
        // Nothing under way: only the etcd may be behind.
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

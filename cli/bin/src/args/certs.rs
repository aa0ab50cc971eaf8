//! Flags about certificates.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};

use super::duration::seconds;

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make a cluster's CA, and the certificates of its daemons
    Init {
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        cluster: String,
        /// The folder, pki/ of a cluster directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// An address at which the cluster's etcd is reached; may be repeated
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
        /// The namespace of the apiserver's Service
        #[arg(long, default_value = "clustermesh")]
        namespace: String,
        /// Days that the certificates live
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Issue a certificate with a new key: for a client USER, or for a server
    Issue {
        /// The folder with the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The etcd user; the common name
        #[arg(long, conflicts_with_all = ["dns", "addresses"], required_unless_present = "dns")]
        user: Option<String>,
        /// A server's DNS name, the first of which is its common name; may be repeated
        #[arg(long)]
        dns: Vec<String>,
        /// A server's address; may be repeated
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
        /// Where to write: NAME.crt and NAME.key
        #[arg(long)]
        out: PathBuf,
        /// Days that the certificate lives
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// How long it lives, as in 90s, 30m, 12h or 30d, in place of --days
        #[arg(long, value_name = "DURATION", conflicts_with = "days", value_parser = lifetime)]
        lifetime: Option<Duration>,
    },
    /// Make a key and a request for a client certificate, for another cluster to sign
    Request {
        /// The user that the certificate is to be for: remote-<this cluster>
        #[arg(long)]
        user: String,
        /// Where to write: NAME.csr and NAME.key
        #[arg(long)]
        out: PathBuf,
    },
    /// Sign another cluster's request: a client certificate for exactly the user named here
    Sign {
        /// The folder with the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The request, PEM
        request: PathBuf,
        /// The user it must be for
        #[arg(long)]
        user: String,
        /// Where to write the certificate; standard output, unless given
        #[arg(long)]
        out: Option<PathBuf>,
        /// Days that the certificate lives
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Exchange certificates, or the CA, while everything runs. Repeat it until it has nothing left to do
    #[command(
        after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 another cluster must be changed first (it says which and how), 4 the restarted etcd did not come back in time"
    )]
    Rotate(RotateArgs),
    /// Show what is in certificates
    Show {
        /// PEM files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct RotateArgs {
    /// The cluster whose certificates are exchanged
    #[arg(long)]
    pub(crate) context: String,
    /// The CA, and everything that it signed; the old one stays trusted until --finish
    #[arg(long, group = "what")]
    pub(crate) ca: bool,
    /// The certificate of the etcd
    #[arg(long, group = "what")]
    pub(crate) server: bool,
    /// The certificates of the apiserver, of the agents, and of the clusters that follow this one
    #[arg(long, group = "what")]
    pub(crate) clients: bool,
    /// Trust the old CA no longer; refused while anything depends on it
    #[arg(long, requires = "ca")]
    pub(crate) finish: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long the new certificates live, as in 90s, 30m, 12h or 30d; a year, unless given
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(crate) lifetime: Option<Duration>,
    /// With --server and --clients: leave alone what was issued less than this ago, so that a repeated command goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = seconds)]
    pub(crate) min_age: u64,
    /// The context of a cluster that follows this one, if it is not called like it; may be repeated
    #[arg(long = "peer-context")]
    pub(crate) peer_contexts: Vec<String>,
    /// A cluster whose context is not at hand has what it needs; may be repeated
    #[arg(long = "peer-done")]
    pub(crate) peers_done: Vec<String>,
    /// A shell command that restarts the etcd, for when it must read other CAs
    #[arg(long, conflicts_with = "etcd_restarted")]
    pub(crate) restart_etcd: Option<String>,
    /// The etcd was restarted: go on although it cannot be asked from here
    #[arg(long)]
    pub(crate) etcd_restarted: bool,
}

/// A time as in `90s`, `1h30m`, `720h` or `30d`.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = mesh_offline::parse_time(text)
        .map_err(|_| format!("{text:?} is no time, as in 90s, 1h30m, 720h or 30d"))?;
    // Ten years, as for --days.
    match (1..=3_650 * 24 * 3_600).contains(&lifetime.as_secs()) {
        true => Ok(lifetime),
        false => Err(format!("{text:?} is not from 1s to 3650d")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(lifetime("2d"), Ok(Duration::from_secs(2 * 24 * 3_600)));
        for bad in ["", "s", "0s", "9", "1y", "-1s", "3651d", "99999999999999999999d"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}

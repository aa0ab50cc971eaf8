//! The flags of `clustermesh certs`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use mesh_admin::duration::{of_flag, with_unit};

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Create a cluster's CA, and the certificates of its daemons
    Init {
        /// The cluster's name
        #[arg(long, value_name = "CLUSTER")]
        cluster: String,
        /// The folder to write to: pki/ of a cluster directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// An address at which the cluster's etcd is reached; may be repeated
        #[arg(long = "address", value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// The namespace of the apiserver's Service
        #[arg(long, value_name = "NAMESPACE", default_value = "clustermesh")]
        namespace: String,
        #[command(flatten)]
        validity: Validity,
    },
    /// Issue a certificate with a new key: for a client USER, or for a server
    Issue {
        /// The folder with the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The etcd user: the common name of the certificate
        #[arg(long, value_name = "USER", conflicts_with_all = ["dns", "addresses"], required_unless_present = "dns")]
        user: Option<String>,
        /// A DNS name of a server; the first one is the common name; may be repeated
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// An address of a server; may be repeated
        #[arg(long = "address", value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// Where to write NAME.crt and NAME.key
        #[arg(long, value_name = "NAME")]
        out: PathBuf,
        #[command(flatten)]
        validity: Validity,
    },
    /// Create a key and a request for a client certificate, for another cluster to sign
    Request {
        /// The user that the certificate will be for: remote-CLUSTER, where CLUSTER is this cluster's name
        #[arg(long, value_name = "USER")]
        user: String,
        /// Where to write NAME.csr and NAME.key
        #[arg(long, value_name = "NAME")]
        out: PathBuf,
    },
    /// Sign another cluster's request for a client certificate
    Sign {
        /// The folder with the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The request, a PEM file
        #[arg(value_name = "FILE")]
        request: PathBuf,
        /// The user that the certificate is for; a request for another user is refused
        #[arg(long, value_name = "USER")]
        user: String,
        /// Where to write the certificate; by default standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        validity: Validity,
    },
    /// Replace certificates, or the CA, while everything runs. Repeat it until it has nothing left to do
    #[command(
        after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 another cluster must be changed first (it says which and how), 4 the restarted etcd did not come back in time"
    )]
    Rotate(RotateArgs),
    /// Show the contents of certificates
    Show {
        /// PEM files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// How long new certificates are valid.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct Validity {
    /// How long the certificates are valid, as in 90s, 30m, 12h or 30d
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = lifetime)]
    lifetime: Duration,
    /// The same in days; until the next minor release
    #[arg(long, value_name = "DAYS", conflicts_with = "lifetime", hide = true, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: Option<u32>,
}

impl Validity {
    pub(crate) fn lifetime(self) -> Duration {
        let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3_600);
        self.days.map_or(self.lifetime, days)
    }
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct RotateArgs {
    /// The cluster whose certificates are replaced
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: String,
    /// Replace the CA, and all certificates that it signed; the old CA stays trusted until --finish
    #[arg(long, group = "what")]
    pub(crate) ca: bool,
    /// Replace the certificate of the etcd
    #[arg(long, group = "what")]
    pub(crate) server: bool,
    /// Replace the certificates of the apiserver, of the agents, and of the clusters that follow this one
    #[arg(long, group = "what")]
    pub(crate) clients: bool,
    /// Stop trusting the old CA; refused while a certificate that it signed is in use
    #[arg(long, requires = "ca")]
    pub(crate) finish: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long the new certificates are valid, as in 90s, 30m, 12h or 30d; by default a year
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(crate) lifetime: Option<Duration>,
    /// With --server and --clients: keep certificates that were issued less than this ago
    ///
    /// A command that is repeated after it was interrupted then goes on where it was.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = of_flag)]
    pub(crate) min_age: Duration,
    /// The context of a cluster that follows this one, if the context has another name; may be repeated
    #[arg(long = "peer-context", value_name = "CONTEXT")]
    pub(crate) peer_contexts: Vec<String>,
    /// A cluster without a context here, where you installed the new files by hand; may be repeated
    #[arg(long = "peer-done", value_name = "CLUSTER")]
    pub(crate) peers_done: Vec<String>,
    /// A shell command that restarts the etcd: it reads new CAs only at its start
    #[arg(long, value_name = "COMMAND", conflicts_with = "etcd_restarted")]
    pub(crate) restart_etcd: Option<String>,
    /// You restarted the etcd: go on although this command cannot reach it
    #[arg(long)]
    pub(crate) etcd_restarted: bool,
}

/// Parses a duration from one second to ten years.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = with_unit(text)?;
    match (1..=3_650 * 24 * 3_600).contains(&lifetime.as_secs()) {
        true => Ok(lifetime),
        false => Err("not from 1s to 3650d".into()),
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

//! `clustermesh-cni`: the last plugin of a CNI chain. It reports to the node's agent which pod has which addresses.
//!
//! Standard output is for the runtime, standard error for its log.

mod add;
mod agent;
mod check;
mod delete;
mod netns;
mod registry;

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
};

use mesh_admin::logs::LogArgs;
use mesh_cni::{CniError, CniVersion, MAX_INPUT, Request, VariablesOf, version_reply};

/// The text for a person who starts it.
const HELP: &str = "\
clustermesh-cni reports to this node's clustermesh-agent which pod has which addresses.

It is a CNI plugin, the last one of a chain. A container runtime starts it with CNI_COMMAND and other
variables in its environment, and with the network configuration on standard input:
https://www.cni.dev/docs/spec/. Put it into the runtime's plugin folder (/opt/cni/bin), and add
{\"type\": \"clustermesh-cni\"} to the end of `plugins` in the network's conflist (/etc/cni/net.d).

  --help     print this
  --version  print the version";

fn main() -> ExitCode {
    match env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("--version" | "-V") => {
            return print_reply(&format!("clustermesh-cni {}", mesh_admin::version::line()));
        }
        Some("--help" | "-h" | "help") => return print_reply(HELP),
        _ => {}
    }
    let log = LogArgs { log_format: None, log_level: "info".into() };
    // Without a log it works all the same.
    let _ = mesh_admin::logs::init(&log);
    let input = match input() {
        Ok(input) => input,
        Err(error) => {
            let error = CniError::Io { what: "standard input".into(), reason: error.to_string() };
            return failed(&error, CniVersion::LATEST);
        }
    };
    let version = CniVersion::of_input(&input);
    let variables = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
    let done = Request::read(&VariablesOf(variables), &input).and_then(|request| match request {
        Request::Version => Ok(Some(version_reply(version))),
        Request::Add(add) => add::run(&add).map(Some),
        Request::Delete(delete) => delete::run(&delete).map(|()| None),
        Request::Check(check) => check::run(&check).map(|()| None),
    });
    match done {
        Ok(Some(reply)) => print_reply(&reply),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => failed(&error, version),
    }
}

/// The runtime's input, and no more of it than is read. A person at a terminal writes nothing.
fn input() -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    let stdin = io::stdin().lock();
    if !stdin.is_terminal() {
        let most = u64::try_from(MAX_INPUT).unwrap_or(u64::MAX).saturating_add(1);
        stdin.take(most).read_to_end(&mut input)?;
    }
    Ok(input)
}

fn print_reply(reply: &str) -> ExitCode {
    match writeln!(io::stdout().lock(), "{reply}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failed(error: &CniError, version: CniVersion) -> ExitCode {
    tracing::error!(code = error.code(), "{error}");
    print_reply(&mesh_admin::plain(&error.reply(version)));
    ExitCode::FAILURE
}

//! `clustermesh certs`: CAs, certificates and requests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use mesh_certs::{ClusterPki, Details, Profile, details, rfc_3339};
use mesh_files::{Access, write_atomic, write_together};
use mesh_model::ClusterName;
use serde_json::json;

use crate::{
    args::CertsCommand,
    outcome::Outcome,
    output::{self, Output},
    rotate,
};

pub(crate) fn run(command: CertsCommand, output: Output) -> anyhow::Result<Outcome> {
    match command {
        CertsCommand::Init { cluster, dir, addresses, namespace, validity } => {
            let cluster = ClusterName::new(&cluster).context("--cluster")?;
            ClusterPki::new(&dir).create(
                cluster.as_str(),
                &namespace,
                &addresses,
                validity.lifetime(),
            )?;
            let made =
                ["ca", "server", "admin", "local"].map(|name| dir.join(name).display().to_string());
            report(output, "made", &made)
        }
        CertsCommand::Issue { dir, user, dns, addresses, out, validity } => {
            let profile = match user {
                Some(user) => Profile::Client { user },
                None => Profile::Server { names: dns, addresses },
            };
            let now = SystemTime::now();
            let issued =
                ClusterPki::new(&dir).ca(now)?.issue(&profile, now, validity.lifetime())?;
            let name =
                out.file_name().context("--out has no file name")?.to_string_lossy().into_owned();
            let folder =
                out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            ClusterPki::new(folder).write(&name, &issued)?;
            report(output, "issued", &[out.display().to_string()])
        }
        CertsCommand::Sign { dir, request, user, out, validity } => {
            let text =
                fs::read_to_string(&request).with_context(|| request.display().to_string())?;
            let now = SystemTime::now();
            let ca = ClusterPki::new(&dir).ca(now)?;
            let certificate = ca
                .sign(&text, &user, now, validity.lifetime())
                .with_context(|| request.display().to_string())?;
            match out {
                Some(out) => {
                    write_atomic(&out, certificate.as_bytes(), Access::All)
                        .with_context(|| out.display().to_string())?;
                    report(output, "signed", &[out.display().to_string()])
                }
                None => match output {
                    Output::Text => {
                        Ok(output::line(certificate.trim_end()).map(|()| Outcome::Done)?)
                    }
                    Output::Json => {
                        output::json("Certificate", json!({ "certificate": certificate }))?;
                        Ok(Outcome::Done)
                    }
                },
            }
        }
        CertsCommand::Rotate(args) => rotate::run(&args, output),
        CertsCommand::Request { user, out } => {
            let asked = mesh_certs::request(&user)?;
            let file = |ending: &str| PathBuf::from(format!("{}.{ending}", out.display()));
            let (key, request) = (file("key"), file("csr"));
            let both = [
                (key.as_path(), asked.key.as_bytes(), Access::Owner),
                (request.as_path(), asked.certificate.as_bytes(), Access::All),
            ];
            write_together(&both).with_context(|| request.display().to_string())?;
            print_result(
                output,
                "made",
                &[request.display().to_string(), key.display().to_string()],
            )
        }
        CertsCommand::Show { files } => {
            let mut all = Vec::new();
            for file in files {
                let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let found = details(&text).with_context(|| file.display().to_string())?;
                all.extend(found.into_iter().map(|details| (file.display().to_string(), details)));
            }
            show(output, &all)
        }
    }
}

fn print_result(output: Output, verb: &str, files: &[String]) -> anyhow::Result<Outcome> {
    match output {
        Output::Text => files.iter().try_for_each(|file| output::line(format!("{verb} {file}")))?,
        Output::Json => output::json("Certificates", json!({ verb: files }))?,
    }
    Ok(Outcome::Done)
}

fn report(output: Output, verb: &str, files: &[String]) -> anyhow::Result<Outcome> {
    match output {
        Output::Text => files.iter().try_for_each(|file| {
            output::line(format!("{verb} {file}.crt").replace(".crt.crt", ".crt"))
        })?,
        Output::Json => output::json("Certificates", json!({ verb: files }))?,
    }
    Ok(Outcome::Done)
}

/// Shows certificates. If one has expired or is not valid yet, the outcome is "not ready".
fn show(output: Output, all: &[(String, Details)]) -> anyhow::Result<Outcome> {
    let now = SystemTime::now();
    let valid = |details: &Details| details.not_before <= now && now <= details.not_after;
    match output {
        Output::Text => {
            for (index, (file, details)) in all.iter().enumerate() {
                if index > 0 {
                    output::line("")?;
                }
                let purpose = match (details.is_ca, details.usages.as_slice()) {
                    (true, _) => "CA".into(),
                    (false, usages) => usages.join(", "),
                };
                let validity = if valid(details) { "valid" } else { "NOT VALID NOW" };
                output::line(file)?;
                for (name, value) in [
                    ("subject", details.subject.clone()),
                    ("for", purpose),
                    ("issuer", details.issuer.clone()),
                    ("validity", format!("{validity}, until {}", rfc_3339(details.not_after))),
                    ("names", details.names.join(", ")),
                ] {
                    if !value.is_empty() {
                        output::line(format!("  {:<10}{value}", format!("{name}:")))?;
                    }
                }
            }
        }
        Output::Json => {
            let certificates: Vec<_> = all
                .iter()
                .map(|(file, d)| {
                    json!({
                        "file": file, "subject": d.subject, "commonName": d.common_name, "issuer": d.issuer,
                        "serial": d.serial, "notBefore": rfc_3339(d.not_before), "notAfter": rfc_3339(d.not_after),
                        "valid": valid(d), "authority": d.is_ca, "isCa": d.is_ca, "usages": d.usages, "names": d.names,
                    })
                })
                .collect();
            output::json(
                "Certificates",
                json!({ "certificates": certificates, "items": certificates }),
            )?;
        }
    }
    Ok(if all.iter().all(|(_, details)| valid(details)) {
        Outcome::Done
    } else {
        Outcome::NotReady
    })
}

//! A CA issues, another cluster's request is signed, and only sound credentials are published.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use mesh_certs::{
    Ca, CaError, CredentialFiles, Issued, Profile, Store, details, request, server_names,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// OpenSSL's, with the subject `/DC=com/DC=example/CN=ca`.
const TWO_DOMAINS: &str = "-----BEGIN CERTIFICATE-----
MIIB2DCCAX6gAwIBAgIUHpE/pEw/Bp/flYHExaoYSKgtxjkwCgYIKoZIzj0EAwIw
OzETMBEGCgmSJomT8ixkARkWA2NvbTEXMBUGCgmSJomT8ixkARkWB2V4YW1wbGUx
CzAJBgNVBAMMAmNhMB4XDTI2MTEyMTA2MTU1OFoXDTQ2MDEyMDA2MTU1OFowOzET
MBEGCgmSJomT8ixkARkWA2NvbTEXMBUGCgmSJomT8ixkARkWB2V4YW1wbGUxCzAJ
BgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAESuEEzfQDSiNp3Nwp
0XvOwm3En9wcS3XJRigKTZH98U6D2d028XhS05R5Y1fgRr7g/bdnCbBxZ/+Lucrw
miRCLaNgMF4wHQYDVR0OBBYEFH9QqLFw2gBDEJie2u/i49zWy8qTMB8GA1UdIwQY
MBaAFH9QqLFw2gBDEJie2u/i49zWy8qTMA8GA1UdEwEB/wQFMAMBAf8wCwYDVR0P
BAQDAgIEMAoGCCqGSM49BAMCA0gAMEUCIQDkhsDwOYH8SNIFxR/1FupUgdC3n5lj
SiQvLOrEMDjJMQIgBQARorZCXPsDbHHOJeE6MRynXRU/KE0yBLO7VU29w3g=
-----END CERTIFICATE-----
";

/// OpenSSL's, with the subject `/2.100.3=x/CN=ca`.
const ODD_KIND: &str = "-----BEGIN CERTIFICATE-----
MIIBZTCCAQygAwIBAgIUDp2/KkUeqrSjfGWan0COTJCgCM4wCgYIKoZIzj0EAwIw
GTEKMAgGA4E0AwwBeDELMAkGA1UEAwwCY2EwHhcNMjYxMTIxMDYxNzAwWhcNNDYw
MTIwMDYxNzAwWjAZMQowCAYDgTQDDAF4MQswCQYDVQQDDAJjYTBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABMwbzp9LNW3SEh2/L0kmk9LCiALOzZ4I3bKB1JuDanuu
VYC1r6NtioTas/Bh05u6yS09cIe7+oPJtYSS1XXLf4SjMjAwMA8GA1UdEwEB/wQF
MAMBAf8wHQYDVR0OBBYEFGoYGFbVykZtkE4ZWI7sKddFAElYMAoGCCqGSM49BAMC
A0cAMEQCIGKwND7looYjDji5OcDV7jnGGJPCHWhFGgCvX8tMwYbxAiBFF5eqWy9/
VWFVMMOoE1nSJgEqd1fWKGJE7NXT7ocWaw==
-----END CERTIFICATE-----
";

fn ca(cluster: &str) -> Ca {
    Ca::create(cluster, SystemTime::now(), Ca::LIFETIME).unwrap().0
}

fn client(user: &str) -> Profile {
    Profile::Client { user: user.into() }
}

fn files(folder: &Path) -> CredentialFiles {
    CredentialFiles {
        ca: folder.join("ca.crt"),
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
    }
}

fn write(folder: &Path, ca: &str, issued: &Issued) {
    let files = files(folder);
    fs::write(files.ca, ca).unwrap();
    fs::write(files.certificate, &issued.certificate).unwrap();
    fs::write(files.key, &issued.key).unwrap();
}

#[test]
fn server_certificate_says_its_names() {
    let address: IpAddr = "172.31.1.1".parse().unwrap();
    let profile = Profile::Server { names: server_names("clustermesh"), addresses: vec![address] };
    let now = SystemTime::now();
    let issued = ca("a").issue(&profile, now, DAY).unwrap();
    let about = &details(&issued.certificate).unwrap()[0];
    assert_eq!(about.common_name, "clustermesh-apiserver.clustermesh.svc");
    assert_eq!(about.issuer, "CN=clustermesh authority of a");
    assert!(about.names.contains(&"*.mesh.cilium.io".to_owned()));
    assert!(about.names.contains(&"172.31.1.1".to_owned()));
    assert_eq!((about.is_ca, about.usages.as_slice()), (false, ["server"].as_slice()));
    assert!(about.not_before < now && about.not_after > now + DAY - Duration::from_secs(2));
}

#[test]
fn ca_survives_its_files() {
    let now = SystemTime::now();
    let (_, files) = Ca::create("a", now, DAY).unwrap();
    let again = Ca::load(&files.certificate, &files.key, now).unwrap();
    let issued = again.issue(&client("admin-a"), now, DAY).unwrap();

    let later = now + 2 * DAY;
    assert!(matches!(
        Ca::load(&files.certificate, &files.key, later),
        Err(CaError::Expired { .. })
    ));
    let (_, other) = Ca::create("b", now, DAY).unwrap();
    assert!(matches!(Ca::load(&files.certificate, &other.key, now), Err(CaError::OtherKey { .. })));
    assert!(matches!(Ca::load(&issued.certificate, &issued.key, now), Err(CaError::NotACa { .. })));
    assert!(Ca::load("", &files.key, now).is_err());
}

/// Found by `mesh-certs-fuzz`: what the first issued named another issuer, and signing with the second panicked.
#[test]
fn a_ca_that_cannot_be_named_is_refused() {
    let now = SystemTime::now();
    let key = Ca::create("a", now, DAY).unwrap().1.key;
    for (certificate, says) in [(TWO_DOMAINS, "DC=example"), (ODD_KIND, "CN=ca")] {
        let error = Ca::load(certificate, &key, now).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
        assert!(error.ends_with("has an attribute twice, or of an unknown kind"), "{error}");
    }
}

#[test]
fn a_request_gets_what_we_say_and_not_what_it_asks() {
    let b = ca("b");
    let asked = request("remote-a").unwrap();
    let certificate = b.sign(&asked.certificate, "remote-a", SystemTime::now(), DAY).unwrap();
    let about = &details(&certificate).unwrap()[0];
    assert_eq!(
        (about.common_name.as_str(), about.usages.as_slice()),
        ("remote-a", ["client"].as_slice())
    );
    assert!(!about.is_ca);

    let root = request("root").unwrap();
    let error = b.sign(&root.certificate, "remote-a", SystemTime::now(), DAY).unwrap_err();
    assert_eq!(error.to_string(), "the request is for \"root\", but \"remote-a\" asked for it");

    // The requested key is in the signature's input: another's request cannot be bent.
    let mut bent = asked.certificate;
    let middle = bent.len() / 2;
    let replacement = if bent.as_bytes()[middle] == b'A' { "B" } else { "A" };
    bent.replace_range(middle..=middle, replacement);
    assert!(b.sign(&bent, "remote-a", SystemTime::now(), DAY).is_err());
}

#[tokio::test]
async fn only_sound_credentials_are_published() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let b = ca("b");
    let first = b.issue(&client("remote-a"), now, DAY).unwrap();
    write(folder.path(), b.certificate(), &first);
    let (store, mut receiver) = Store::open(files(folder.path()), now).unwrap();
    assert_eq!(receiver.current().subject(), "CN=remote-a");
    assert!(!store.reload(now).unwrap());

    let second = b.issue(&client("remote-a"), now, 2 * DAY).unwrap();
    let expired = b.issue(&client("remote-a"), now - 3 * DAY, DAY).unwrap();
    let of_second = |key: &str| Issued { certificate: second.certificate.clone(), key: key.into() };
    for (ca, issued, says) in [
        (
            b.certificate(),
            of_second(&first.key),
            "tls.key: the key does not belong to the certificate \"CN=remote-a\"",
        ),
        (b.certificate(), of_second("x"), "tls.key: no private key in it"),
        (b.certificate(), expired, "tls.crt: the certificate \"CN=remote-a\" is valid from"),
        ("", second.clone(), "ca.crt: no certificate in it"),
        (
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            second.clone(),
            "ca.crt: not an X.509",
        ),
    ] {
        write(folder.path(), ca, &issued);
        let error = store.reload(now).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(receiver.current().not_after() < now + 2 * DAY - Duration::from_secs(60));
    }

    // A CA that ends sooner beside it changes nothing: the last one counts.
    let (sooner, _) = Ca::create("b", now, DAY).unwrap();
    let both = format!("{}{}", b.certificate(), sooner.certificate());
    write(folder.path(), &both, &second);
    assert!(store.reload(now).unwrap());
    receiver.changed().await;
    let current = receiver.current();
    assert!(current.not_after() > now + DAY);
    let [(ca, ca_ends), (certificate, ends)] = current.certificates() else { panic!("two files") };
    let files = files(folder.path());
    assert_eq!((ca, certificate, *ends), (&files.ca, &files.certificate, current.not_after()));
    assert!(*ca_ends > now + Ca::LIFETIME - DAY);
}

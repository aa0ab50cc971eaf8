//! Fuzz bodies for requests, certificates and credentials: all that `mesh-certs` reads and did not write.
//!
//! Requests and certificates come twice: as the PEM that arrives, where edits try the decoders, and in the notation of
//! [`der`], where edits change the content. Requests of the second kind are signed here, so that they are read at all.

#![allow(clippy::expect_used, clippy::panic, reason = "a fuzz body fails by panicking")]

use std::{
    fs,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_certs::{
    Bundle, Ca, CaError, CredentialFiles, Details, Profile, Request, RequestError, details,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SigningKey as _};

pub mod der;

/// Whose request is expected.
pub const USER: &str = "remote-a";
/// The seed of [`CA`]'s key.
pub const CA_SEED: u8 = 1;
/// The seed of the key that requests are signed with.
pub const USER_SEED: u8 = 2;
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who signs.
static CA: LazyLock<Ca> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let certificate = self_signed(params, CA_SEED);
    must(Ca::load(&certificate, &key_pem(CA_SEED), now()))
});
static USER_KEY: LazyLock<KeyPair> = LazyLock::new(|| key(USER_SEED));

/// A request as it arrives: PEM.
pub fn request(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        sign(text);
    }
}

/// The content of a request, in the notation of [`der`]; it is signed here.
pub fn signed_request(data: &[u8]) {
    let content = der::assemble(data);
    let signature = must(USER_KEY.sign(&content));
    let ed25519 = der::value(0x30, &der::value(0x06, &[0x2b, 0x65, 0x70]));
    let signature = der::value(0x03, &[[0].as_slice(), &signature].concat());
    let all = der::value(0x30, &[content, ed25519, signature].concat());
    if let Some(certificate) = sign(&pem("CERTIFICATE REQUEST", &all)) {
        assert!(certificate.public_key.ends_with(USER_KEY.public_key_raw()));
    }
}

/// Certificates and perhaps a key, PEM.
pub fn certificates(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let begun = text.matches("-----BEGIN CERTIFICATE-----").count();
    if let Some(all) = read(text) {
        assert!((1..=begun).contains(&all.len()), "{} of {begun}", all.len());
        // As CAs they are the same certificates, each once, and written they are read again.
        let bundle = must(Bundle::parse(text));
        assert!((1..=all.len()).contains(&bundle.len()));
        assert_eq!(must(Bundle::parse(&bundle.to_pem())), bundle);
        bundle.signed(text);
    }
    load(text, text);
}

/// A certificate in the notation of [`der`].
pub fn certificate(data: &[u8]) {
    let der = der::assemble(data);
    let text = pem("CERTIFICATE", &der);
    if let Some(all) = read(&text) {
        let [Details { common_name, names, public_key, .. }] = all.as_slice() else {
            panic!("one became {}", all.len())
        };
        // Nothing is made up: addresses aside, what is reported is in the certificate.
        let written = names.iter().filter(|name| name.parse::<std::net::IpAddr>().is_err());
        for content in
            written.chain([common_name]).map(String::as_bytes).chain([public_key.as_slice()])
        {
            assert!(content.is_empty() || der.windows(content.len()).any(|part| part == content));
        }
    }
    load(&text, &key_pem(CA_SEED));
}

/// Three files, separated by empty lines: CA, certificate and key.
pub fn credentials(data: &[u8]) {
    let mut parts = String::from_utf8_lossy(data).into_owned();
    let mut part = || {
        let end = parts.find("\n\n").map_or(parts.len(), |at| at + 2);
        parts.drain(..end).collect::<String>()
    };
    let folder = new_folder();
    let path = |name| folder.path().join(name);
    let files = CredentialFiles { ca: path("a"), certificate: path("c"), key: path("k") };
    let [ca, certificate, _] = [&files.ca, &files.certificate, &files.key].map(|path| {
        let text = part();
        must(fs::write(path, &text));
        text
    });
    match files.load(now()) {
        Ok(credentials) => {
            let all = must(details(&certificate));
            let Some(first) = all.first() else { panic!("no certificate, and yet credentials") };
            assert_eq!(credentials.subject(), first.subject);
            assert_eq!(credentials.not_after(), first.not_after);
            assert!(first.not_before <= now() && now() <= first.not_after);
            must(details(&ca));
        }
        Err(error) => {
            let says = error.to_string();
            assert!([files.ca, files.certificate, files.key].contains(&error.file));
            assert!(says.starts_with(&format!("{}: ", error.file.display())), "{says}");
        }
    }
}

/// Signs a request. Only the expected user gets a certificate, and only one with that name and nothing else.
fn sign(request: &str) -> Option<Details> {
    let signed = CA.sign(request, USER, now(), LIFETIME);
    let asked = Request::parse(request);
    let certificate = match (signed, asked) {
        (Ok(certificate), Ok(asked)) if asked.subject() == USER => certificate,
        (Err(CaError::Request(RequestError::OtherSubject { found, .. })), Ok(asked)) => {
            assert_eq!(found, asked.subject());
            assert_ne!(found, USER);
            return None;
        }
        (Err(error), Err(problem)) => {
            assert_eq!(error.to_string(), problem.to_string());
            assert!(error.to_string().starts_with("not a certificate request: "), "{error}");
            return None;
        }
        (signed, asked) => {
            panic!("{signed:?} for {:?}", asked.map(|asked| asked.subject().to_owned()))
        }
    };
    let all = must(details(&certificate));
    let [about] = all.as_slice() else { panic!("{} certificates for one request", all.len()) };
    assert_eq!((about.subject.as_str(), about.issuer.as_str()), ("CN=remote-a", "CN=authority"));
    assert_eq!((about.is_ca, about.usages.as_slice()), (false, ["client"].as_slice()));
    assert!(about.names.is_empty() && about.not_after <= now() + LIFETIME);
    Some(about.clone())
}

/// Reads certificates twice, with the same result; an error names what was wrong.
fn read(text: &str) -> Option<Vec<Details>> {
    match (details(text), details(text)) {
        (Ok(all), Ok(again)) => {
            assert_eq!(all, again);
            Some(all)
        }
        (Err(error), Err(again)) => {
            let says = error.to_string();
            assert_eq!(says, again.to_string());
            let known = ["not PEM: ", "no certificate in it", "not an X.509 certificate: "];
            assert!(known.iter().any(|known| says.starts_with(known)), "{says}");
            None
        }
        (once, again) => panic!("{once:?}, then {again:?}"),
    }
}

/// Takes a CA. One that is taken issues certificates that lead back to it.
fn load(certificate: &str, key: &str) {
    let Ok(ca) = Ca::load(certificate, key, now()) else {
        return;
    };
    let profile = Profile::Client { user: USER.into() };
    let issued = must(ca.issue(&profile, now(), LIFETIME));
    let all = [certificate, &issued.certificate].map(|text| must(details(text)));
    let [Some(own), Some(issued)] = all.each_ref().map(|all| all.first()) else {
        panic!("a CA without a certificate")
    };
    assert_eq!(issued.issuer, own.subject);
}

/// A certificate of what is asked, signed by the key of a seed.
pub fn self_signed(params: CertificateParams, seed: u8) -> String {
    must(params.self_signed(&key(seed))).pem()
}

/// The key of a seed. Ed25519: its signatures are the same each time, and so are the inputs made of them.
pub fn key(seed: u8) -> KeyPair {
    must(KeyPair::try_from(private_key(seed)))
}

/// The same as PEM.
pub fn key_pem(seed: u8) -> String {
    pem("PRIVATE KEY", &private_key(seed))
}

/// PKCS #8 (RFC 8410, section 7).
fn private_key(seed: u8) -> Vec<u8> {
    let algorithm = der::value(0x30, &der::value(0x06, &[0x2b, 0x65, 0x70]));
    let key = der::value(0x04, &der::value(0x04, &[seed; 32]));
    der::value(0x30, &[der::value(0x02, &[0]), algorithm, key].concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Always the same day in 2027.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A folder in memory where there is one: on a disk, 10^5 folders wait for other processes that write to it.
fn new_folder() -> tempfile::TempDir {
    must(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()))
}

fn must<T, E: std::fmt::Debug>(outcome: Result<T, E>) -> T {
    outcome.expect("cannot fail")
}

#[cfg(test)]
mod tests;

use std::path::Path;

use mesh_wire_fuzz::run;
use rcgen::{
    DnValue, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
    string::{Ia5String, PrintableString},
};

use super::*;

/// What was made elsewhere: OpenSSL's requests (`csr`) and certificates (`crt`).
fn seeds(extension: &str) -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| Path::extension(path).is_some_and(|e| e == extension));
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(seeds.len(), 2);
    seeds
}

fn bytes(texts: Vec<String>) -> Vec<Vec<u8>> {
    texts.into_iter().map(String::into_bytes).collect()
}

fn named(names: &[(DnType, DnValue)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    names
        .iter()
        .for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), value.clone()));
    params
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.into())
}

/// Asks for everything there is.
fn greedy(mut params: CertificateParams) -> CertificateParams {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let names = ["root", "*.mesh.cilium.io"].map(|name| SanType::DnsName(name.try_into().unwrap()));
    let addresses = ["10.0.0.1", "fd00::1"].map(|ip| SanType::IpAddress(ip.parse().unwrap()));
    params.subject_alt_names = names.into_iter().chain(addresses).collect();
    params
}

fn subjects() -> Vec<CertificateParams> {
    let country = DnValue::PrintableString(PrintableString::try_from("CH").unwrap());
    let part = |text: &str| DnValue::Ia5String(Ia5String::try_from(text).unwrap());
    let domain = DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, 25]);
    vec![
        named(&[(DnType::CommonName, utf8(USER))]),
        named(&[(DnType::CommonName, utf8("root"))]),
        greedy(named(&[
            (DnType::CommonName, utf8(USER)),
            (DnType::OrganizationName, utf8("root")),
        ])),
        named(&[
            (DnType::CountryName, country),
            (domain, part("example")),
            (DnType::CommonName, utf8("Müller & Sons")),
        ]),
        named(&[]),
    ]
}

/// Contains a line twice, first with other content.
fn doubled(text: &str, line: &str, other: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|found| found.trim() == line).unwrap();
    // Set, sequence, type, value.
    let name = lines[at - 3..=at].join("\n");
    text.replace(&name, &format!("{}\n{name}", name.replace(line, other)))
}

fn unpem(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).unwrap()
}

/// Certificates of [`CA_SEED`]'s key.
fn own_certificates() -> Vec<String> {
    let all = subjects().into_iter().map(|mut params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self_signed(params, CA_SEED)
    });
    all.collect()
}

#[test]
fn what_is_taken_apart_can_be_put_together() {
    for text in seeds("csr").into_iter().chain(seeds("crt")).chain(own_certificates()) {
        let der = unpem(&text);
        assert_eq!(der::assemble(der::disassemble(&der).unwrap().as_bytes()), der);
    }
}

#[test]
fn the_expected_user_is_signed_and_no_other() {
    let outcomes = subjects().into_iter().map(|params| {
        sign(&params.serialize_request(&key(USER_SEED)).unwrap().pem().unwrap()).is_some()
    });
    assert_eq!(outcomes.collect::<Vec<_>>(), [true, false, true, false, false]);
    assert!(seeds("csr").iter().all(|request| sign(request).is_some()));
}

#[test]
fn requests_survive() {
    let own = subjects()
        .into_iter()
        .map(|params| params.serialize_request(&key(USER_SEED)).unwrap().pem().unwrap());
    run(bytes(seeds("csr").into_iter().chain(own).collect()), request);
}

#[test]
fn signed_requests_survive() {
    let signed_part = |params: CertificateParams| {
        let der = params.serialize_request(&key(USER_SEED)).unwrap().der().to_vec();
        let text = der::disassemble(&der).unwrap();
        // Without the outermost sequence, the algorithm and the signature.
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let end = lines.iter().rposition(|line| line.starts_with(" 30")).unwrap();
        lines[..end].join("\n")
    };
    let mut all: Vec<String> = subjects().into_iter().map(signed_part).collect();
    let [user, root] = [format!("0c '{USER}'"), "0c 'root'".into()];
    all.push(doubled(&all[0], &user, &root));
    all.push(doubled(&all[1], &root, &user));
    run(bytes(all), signed_request);
}

#[test]
fn certificates_survive() {
    let mut all = seeds("crt");
    all.extend(own_certificates());
    all.push(all.concat());
    for own in own_certificates() {
        all.push(format!("{own}{}", key_pem(CA_SEED)));
    }
    run(bytes(all), certificates);
}

#[test]
fn a_certificate_survives() {
    let all = seeds("crt").into_iter().chain(own_certificates());
    let mut all: Vec<_> = all.map(|text| der::disassemble(&unpem(&text)).unwrap()).collect();
    all.push(doubled(&all[5], "16 'example'", "16 'com'"));
    run(bytes(all), certificate);
}

#[test]
fn credentials_survive() {
    let [cas, keys] = [own_certificates(), vec![key_pem(CA_SEED), key_pem(USER_SEED)]];
    let mut all = Vec::new();
    for (ca, key) in cas.iter().zip(keys.iter().cycle()) {
        all.push([ca.as_str(), ca, key].join("\n"));
    }
    all.push([&seeds("crt").concat(), &seeds("crt")[0], &keys[0]].map(String::as_str).join("\n"));
    run(bytes(all), credentials);
}

//! The time in which objects become keys: `clustermesh export` of files of several sizes and formats.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Instant,
};

use mesh_lab::printed_json;
use mesh_source::{Format, decode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    clean_up::SANDBOX,
    command::run,
    error::{BenchError, file, io},
    stats::median,
};

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// The numbers of pods in the small and in the large files.
    pub pods: [u32; 2],
    /// How often the files take turns.
    pub rounds: u32,
}

/// The time for a number of pods, beside that for a smaller one.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportCost {
    /// The format of the files: `documents` (YAML), `list` (YAML), `json`, or `folder` (YAML, a file for each object).
    pub form: &'static str,
    /// Pods of each service.
    pub pods_a_service: u32,
    /// Pods in the large files.
    pub pods: u32,
    /// Pods in the small files.
    pub fewer_pods: u32,
    /// Bytes of the large files.
    pub bytes: u64,
    /// Keys exported from the large files.
    pub keys: usize,
    /// Time to decode the large files into objects, in milliseconds. This and the times below are medians.
    pub decode_millis: f64,
    /// Time of `clustermesh export` of the large files, in milliseconds.
    pub millis: f64,
    /// The same for the small files.
    pub fewer_millis: f64,
    /// The ratio of the two: the median of the rounds' ratios.
    pub ratio: f64,
}

/// The format of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Documents,
    List,
    Json,
    Folder,
}

/// Files with objects, in a folder that is removed when the value is dropped.
struct Written {
    folder: PathBuf,
    bytes: u64,
}

/// Pods of each service, in the files with several services.
const FEW: u32 = 100;
/// Ports of a service.
const PORTS: [u16; 2] = [80, 443];

/// Runs the benchmark. It needs no privileges.
pub fn export(
    options: ExportOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<ExportCost>, BenchError> {
    let largest = options.pods[0].max(options.pods[1]);
    // A service with all pods is the worst case for services v1; many small ones are usual.
    let cases = [
        (Form::Documents, largest),
        (Form::Documents, FEW),
        (Form::List, FEW),
        (Form::Json, FEW),
        (Form::Folder, FEW),
    ];
    let total = cases.len() as u64;
    let measured = (0..).zip(cases).map(|(done, (form, pods_a_service))| {
        progress(done, total);
        cost(form, pods_a_service, options)
    });
    measured.collect()
}

fn cost(form: Form, pods_a_service: u32, options: ExportOptions) -> Result<ExportCost, BenchError> {
    let ExportOptions { pods: [few, many], rounds } = options;
    let name = |pods| format!("{SANDBOX}{}-export-{pods}", process::id());
    let written = |pods| {
        let objects = objects(pods, pods_a_service);
        Written::new(std::env::temp_dir().join(name(pods)), form, &objects)
    };
    let (small, large) = (written(few)?, written(many)?);
    let (mut decoding, mut fewer, mut all, mut ratios) = (vec![], vec![], vec![], vec![]);
    let mut keys = 0;
    for _ in 0..rounds {
        let (fewer_millis, _) = timed_export(&small.folder)?;
        let (millis, exported) = timed_export(&large.folder)?;
        keys = exported;
        decoding.push(timed_decode(&large.folder)?);
        fewer.push(fewer_millis);
        all.push(millis);
        ratios.push(millis / fewer_millis);
    }
    Ok(ExportCost {
        form: form.as_str(),
        pods_a_service: pods_a_service.min(many),
        pods: many,
        fewer_pods: few,
        bytes: large.bytes,
        keys,
        decode_millis: median(decoding),
        millis: median(all),
        fewer_millis: median(fewer),
        ratio: median(ratios),
    })
}

/// Exports a folder. Returns milliseconds and the number of keys.
fn timed_export(objects: &Path) -> Result<(f64, usize), BenchError> {
    let executable = std::env::current_exe().map_err(io("this process's executable"))?;
    let mut command = Command::new(executable);
    command.arg("export").arg("--objects").arg(objects).args(["--cluster", "a", "--id", "1"]);
    let began = Instant::now();
    let printed = run(&mut command)?;
    let millis = began.elapsed().as_secs_f64() * 1e3;
    let printed: Value = printed_json("export", &printed).map_err(BenchError::Unexpected)?;
    let entries = printed.get("entries").and_then(Value::as_array);
    Ok((millis, entries.map_or(0, Vec::len)))
}

/// Decodes a folder's files into objects. Returns milliseconds, without the time for reading the files.
fn timed_decode(folder: &Path) -> Result<f64, BenchError> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).map_err(file(folder))? {
        let path = entry.map_err(file(folder))?.path();
        let text = fs::read_to_string(&path).map_err(file(&path))?;
        texts.extend(Format::of(&path).map(|format| (format, text)));
    }
    let began = Instant::now();
    let objects: usize =
        texts.iter().map(|(format, text)| decode(*format, text).objects.len()).sum();
    let millis = began.elapsed().as_secs_f64() * 1e3;
    match objects {
        0 => Err(BenchError::Unexpected("no object was read".into())),
        _ => Ok(millis),
    }
}

/// Services with pods that are ready. The pods have all fields that `export` uses.
fn objects(pods: u32, pods_a_service: u32) -> Vec<Value> {
    let meta =
        |name: String, labels: Value| json!({"name": name, "namespace": "shop", "labels": labels});
    let ports: Vec<Value> =
        PORTS.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let services = (0..pods.div_ceil(pods_a_service)).map(|service| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": format!("web-{service}"),
                "namespace": "shop",
                "annotations": {"service.cilium.io/global": "true"},
            },
            "spec": {
                "clusterIP": std::net::Ipv4Addr::from(0x0a65_0001 + service).to_string(),
                "selector": {"app": format!("web-{service}")},
                "ports": ports,
            },
        })
    });
    let of_pods = (0..pods).map(|pod| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta(format!("web-{pod}"), json!({"app": format!("web-{}", pod / pods_a_service), "tier": "front"})),
            "spec": {
                "nodeName": format!("n{}", pod / FEW),
                "serviceAccountName": "web",
                "containers": [{"name": "web", "ports": [{"name": "p80", "containerPort": 80}]}],
            },
            "status": {
                "phase": "Running",
                "podIP": std::net::Ipv4Addr::from(0x0a01_0001 + pod).to_string(),
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        })
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    std::iter::once(namespace).chain(services).chain(of_pods).collect()
}

// === impl Form ===

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::List => "list",
            Self::Json => "json",
            Self::Folder => "folder",
        }
    }
}

// === impl Written ===

impl Written {
    fn new(folder: PathBuf, form: Form, objects: &[Value]) -> Result<Self, BenchError> {
        fs::create_dir(&folder).map_err(file(&folder))?;
        let mut written = Self { folder, bytes: 0 };
        match form {
            Form::Documents => {
                let documents: Vec<String> = objects.iter().map(|object| yaml(object, 0)).collect();
                written.write("all.yaml", &documents.join("---\n"))?;
            }
            Form::List => {
                let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
                written.write("all.yaml", &yaml(&list, 0))?;
            }
            Form::Json => {
                let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
                written.write("all.json", &list.to_string())?;
            }
            Form::Folder => {
                for (number, object) in (0..).zip(objects) {
                    let number: usize = number;
                    written.write(&format!("{number}.yaml"), &yaml(object, 0))?;
                }
            }
        }
        Ok(written)
    }

    fn write(&mut self, name: &str, text: &str) -> Result<(), BenchError> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(file(path))?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A value in YAML's block style, as `kubectl get -o yaml` prints it.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let within = |value: &Value| match value {
        Value::Object(_) | Value::Array(_) => format!("\n{}", yaml(value, depth + 1)),
        scalar => format!(" {scalar}\n"),
    };
    match value {
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{indent}{name}:{}", within(value))).collect()
        }
        Value::Array(list) => list
            .iter()
            .map(|entry| {
                let text = yaml(entry, depth + 1);
                format!("{indent}- {}", text.trim_start())
            })
            .collect(),
        scalar => format!("{indent}{scalar}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_the_same_objects() {
        let objects = objects(5, 2);
        let read = |name: &str, form| {
            let folder = std::env::temp_dir().join(format!("{SANDBOX}{}-{name}", process::id()));
            let written = Written::new(folder, form, &objects).unwrap();
            let mut found = Vec::new();
            for entry in fs::read_dir(&written.folder).unwrap() {
                let path = entry.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                let decoded = decode(Format::of(&path).unwrap(), &text).whole().unwrap();
                assert_eq!(decoded.rejected, [], "{text}");
                found.extend(decoded.objects.into_iter().map(|(_, object)| object));
            }
            found.sort_by_key(mesh_model::object::Object::key);
            found
        };
        let documents = read("documents", Form::Documents);
        // One namespace, three services and five pods.
        assert_eq!(documents.len(), 9);
        for (name, form) in [("list", Form::List), ("json", Form::Json), ("folder", Form::Folder)] {
            assert_eq!(read(name, form), documents, "{name}");
        }
    }
}

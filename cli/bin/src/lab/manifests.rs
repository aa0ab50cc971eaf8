//! Reads manifests for `lab apply` and `lab delete`, and prints the results.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use mesh_lab::workload::{Applied, ApplyStep, Change};
use serde_json::{Value, json};

use super::print_result;
use crate::{
    outcome::{Outcome, warn},
    output::Output,
};

#[derive(Debug)]
pub(super) struct Manifest {
    /// The file's name without its extension; `None` for standard input.
    pub(super) name: Option<String>,
    /// Its name in errors.
    pub(super) path: String,
    pub(super) text: String,
}

/// Reads a manifest, all manifests in a folder, or standard input for `-`.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Manifest>> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("standard input")?;
        return Ok(vec![Manifest { name: None, path: "standard input".into(), text }]);
    }
    let mut paths = vec![file.to_owned()];
    if file.is_dir() {
        paths = in_folder(file)?;
        if paths.is_empty() {
            bail!("{}: there is no *.yaml, *.yml or *.json in it", file.display());
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Ok(Manifest { name, path: path.display().to_string(), text })
    };
    paths.into_iter().map(read).collect()
}

fn in_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_file() && ending.is_some_and(|e| ["yaml", "yml", "json"].contains(&e)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A step of the command, in words.
pub(super) fn in_progress(step: &ApplyStep) -> String {
    match step {
        ApplyStep::Ending(count) => format!("{count} pods are terminating"),
        ApplyStep::Ended { name, ended, all } => format!("ended {name} ({ended} of {all})"),
        ApplyStep::Starting { name, started, all } => {
            format!("starting {name} ({started} of {all})")
        }
        ApplyStep::Replacing { name, replaced, all } => {
            format!("replacing {name} ({replaced} of {all}), one after another")
        }
    }
}

/// Prints the change of each object.
pub(super) fn print(all: Vec<Applied>, output: Output) -> anyhow::Result<Outcome> {
    let mut done = Applied::default();
    for Applied { started, stopped, objects, ignored, without_command } in all {
        done.started.extend(started);
        done.stopped.extend(stopped);
        done.objects.extend(objects);
        done.ignored.extend(ignored);
        done.without_command.extend(without_command);
    }
    let Applied { started, stopped, objects, ignored, without_command } = &done;
    for object in ignored {
        warn(format!("ignored: {object}: a lab has no objects of this kind"));
    }
    for pod in without_command {
        warn(format!("{pod}: a lab runs no images: without a command nothing runs in it"));
    }
    let value = json!({
        "started": started, "stopped": stopped, "written": written(objects), "ignored": ignored,
        "withoutCommand": without_command,
        "objects": objects.iter().map(|(object, change)| {
            json!({ "object": object, "change": change.as_str() })
        }).collect::<Vec<Value>>(),
    });
    print_result(output, "LabApply", &in_words(&done), value)
}

fn in_words(Applied { started, stopped, objects, .. }: &Applied) -> String {
    let objects = objects.iter().map(|(object, change)| format!("{object} {}", change.as_str()));
    let in_both = |pod: &&String| started.contains(pod) && stopped.contains(pod);
    let started_only =
        started.iter().filter(|pod| !stopped.contains(pod)).map(|pod| (pod, "started"));
    let stopped_only =
        stopped.iter().filter(|pod| !started.contains(pod)).map(|pod| (pod, "stopped"));
    let restarted = started.iter().filter(in_both).map(|pod| (pod, "restarted"));
    let pods = started_only.chain(stopped_only).chain(restarted);
    let pods = pods.map(|(pod, word)| format!("Pod {pod} {word}"));
    let lines: Vec<String> = objects.chain(pods).collect();
    if lines.is_empty() { "nothing to change".into() } else { lines.join("\n") }
}

/// The objects that were not deleted, without their namespaces, as earlier releases named them.
fn written(objects: &[(String, Change)]) -> Vec<String> {
    let there = objects.iter().filter(|(_, change)| *change != Change::Deleted);
    let short = |object: &str| match object.split_once(' ') {
        Some((kind, name)) => format!("{kind} {}", name.rsplit('/').next().unwrap_or(name)),
        None => object.to_owned(),
    };
    there.map(|(object, _)| short(object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_manifests() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.yml", "notes.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = |manifests: Vec<Manifest>| -> Vec<String> {
            manifests.into_iter().map(|manifest| manifest.text).collect()
        };
        assert_eq!(names(read(folder.path()).unwrap()), ["a.json", "b.yaml", "c.yml"]);
        let one = read(&folder.path().join("b.yaml")).unwrap();
        assert_eq!(one[0].name.as_deref(), Some("b"));
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap_err().to_string().contains("*.yaml"));
    }

    #[test]
    fn who_waits_reads_which_pod_it_is_and_of_how_many() {
        let name = || "web-1".to_owned();
        for (step, says) in [
            (ApplyStep::Ending(20), "20 pods are terminating"),
            (ApplyStep::Ended { name: name(), ended: 7, all: 20 }, "ended web-1 (7 of 20)"),
            (ApplyStep::Starting { name: name(), started: 2, all: 3 }, "starting web-1 (2 of 3)"),
            (
                ApplyStep::Replacing { name: name(), replaced: 2, all: 3 },
                "replacing web-1 (2 of 3), one after another",
            ),
        ] {
            assert_eq!(in_progress(&step), says);
        }
    }

    #[test]
    fn each_object_has_a_line() {
        let applied = Applied {
            started: vec!["web-0".into()],
            objects: vec![
                ("Service shop/web".into(), Change::Configured),
                ("Namespace shop".into(), Change::Unchanged),
                ("Service shop/db".into(), Change::Deleted),
            ],
            ..Applied::default()
        };
        assert_eq!(
            in_words(&applied),
            "Service shop/web configured\nNamespace shop unchanged\nService shop/db deleted\nPod web-0 started"
        );
        assert_eq!(written(&applied.objects), ["Service web", "Namespace shop"]);
        assert_eq!(in_words(&Applied::default()), "nothing to change");
        let pods = ["web-0", "web-1"].map(str::to_owned).to_vec();
        let replaced =
            Applied { started: pods.clone(), stopped: pods[1..].into(), ..<_>::default() };
        assert_eq!(in_words(&replaced), "Pod web-0 started\nPod web-1 restarted");
    }
}

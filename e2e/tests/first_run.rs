//! The first run on a new machine.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use mesh_e2e::netns::binary;
use serde_json::Value;

/// The ID of the user `nobody`, who has no rights.
const NOBODY: u32 = 65_534;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A command without a BPF file system, without /run/netns, and in a new cgroup namespace, as on a new machine.
fn in_clean_room() -> Command {
    let mut command = Command::new(root().join("e2e/clean-room.sh"));
    command.current_dir(root()).env_remove("CLUSTERMESH_CONTEXTS").env_remove("CLUSTERMESH_LAB");
    command
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{out}\n{err}", output.status)
}

#[test]
fn the_demo_runs_where_nothing_is_mounted() {
    let bin = binary().parent().expect("a folder").to_owned();
    let output = in_clean_room().arg("e2e/demo.sh").env("BIN", bin).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let rooms = fs::read_to_string("/proc/mounts").unwrap();
    let cgroups = rooms.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    let cgroups = fs::read_dir(cgroups.split(' ').nth(1).unwrap()).unwrap().flatten();
    let left = cgroups.map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.contains("clean-room-")).collect();
    let alive = |name: &String| {
        let id = name.rsplit('-').next().unwrap_or_default();
        Path::new("/proc").join(id).exists()
    };
    assert_eq!(left.iter().find(|name| !alive(name)), None, "the clean room removes its cgroup");
}

/// The rows of `clustermesh check`, by their names: the state, what was found, and what to do.
fn checked(output: &Output) -> BTreeMap<String, (String, String, String)> {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", text(output));
    });
    assert_eq!(value["kind"], "Check", "{value:#}");
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let of = |row: &Value| (word(row, "state"), word(row, "found"), word(row, "remedy"));
    let rows = value["items"].as_array().unwrap().iter();
    rows.map(|row| (word(row, "check"), of(row))).collect()
}

#[test]
fn a_check_says_what_to_do_where_nothing_is_mounted() {
    let script = "\"$0\" check -o json; echo code $? >&2; awk '$3 == \"bpf\"' /proc/mounts >&2; \
                  find \"$(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts)\" -name 'clustermesh-check-*' >&2";
    let check = |mount: &str| {
        let script = format!("{mount}{script}");
        let output = in_clean_room().args(["sh", "-c", &script]).arg(binary()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        output
    };
    let bare = check("");
    let rows = checked(&bare);
    let state = |check: &str| rows[check].0.as_str();
    assert_eq!((state("bpf-fs"), &*rows["bpf-fs"].2), ("warning", "mount -t bpf bpf /sys/fs/bpf"));
    assert_eq!(state("cgroup2"), "warning", "{rows:#?}");
    assert!(rows["cgroup2"].2.contains("--cgroup-root"), "{rows:#?}");
    // The programs are tried there all the same, and nothing of them is left.
    let fit = ["capabilities", "kernel", "socket-list", "probe-answer", "inotify"];
    assert_eq!(fit.map(state), ["ok"; 5], "{rows:#?}");
    assert_eq!(String::from_utf8_lossy(&bare.stderr), "code 3\n", "a mount or a cgroup is left");
    // What was said is what helps.
    let mounted = checked(&check("mount -t bpf bpf /sys/fs/bpf; "));
    assert_eq!(mounted["bpf-fs"].0, "ok", "{mounted:#?}");
}

/// A command of README's block, and what README shows of its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The commands of README's block with `clustermesh lab up`.
fn readme_block() -> Vec<Step> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```").find(|block| block.contains("$ clustermesh lab up"));
    let mut steps: Vec<Step> = Vec::new();
    for line in block.expect("a block of commands").trim().lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), shown: Vec::new() });
            }
            (None, Some(step)) => step.shown.push(line.trim_end().to_owned()),
            (None, None) => panic!("README's block begins with {line:?}"),
        }
    }
    steps
}

#[test]
fn readmes_commands_do_what_it_shows() {
    const END: &str = "=== that was a command, and its exit code is";
    let steps = readme_block();
    assert!(steps.len() > 5, "only {} commands", steps.len());
    let script: String =
        steps.iter().map(|step| format!("{}\necho '{END}' $?\n", step.command)).collect();
    // The lab is removed also if a command fails.
    let script = format!("trap 'clustermesh lab down >/dev/null' EXIT\n{script}");
    let output = in_clean_room().args(["bash", "-c", &script]).output().unwrap();
    let all = text(&output);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut outputs = out.split(END);
    for (number, step) in steps.iter().enumerate() {
        let mut printed =
            outputs.next().unwrap_or_else(|| panic!("{}: {all}", step.command)).trim_end();
        // The output starts with the exit code of the previous command.
        if number > 0 {
            let (code, rest) = printed.split_once('\n').unwrap_or((printed, ""));
            assert_eq!(code.trim(), "0", "{}: {all}", steps[number - 1].command);
            printed = rest;
        }
        if !step.shown.is_empty() {
            let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
            assert_eq!(printed, step.shown, "{}", step.command);
        }
    }
    assert_eq!(outputs.next().map(str::trim), Some("0"), "{all}");
}

/// Users other than root get one sentence and exit code 1.
#[test]
fn other_users_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let cli = folder.path().join("clustermesh");
    fs::copy(binary(), &cli).unwrap();
    let demo = folder.path().join("e2e/demo.sh");
    fs::create_dir(demo.parent().unwrap()).unwrap();
    fs::copy(root().join("e2e/demo.sh"), &demo).unwrap();
    let room = folder.path().join("e2e/clean-room.sh");
    fs::copy(root().join("e2e/clean-room.sh"), &room).unwrap();
    let cases: [(&Path, &[&str]); 6] = [
        (&demo, &[]),
        (&room, &["true"]),
        (&cli, &["lab", "up"]),
        (&cli, &["lab", "status"]),
        (&cli, &["lab", "down"]),
        (&cli, &["bench", "fill"]),
    ];
    for (program, args) in cases {
        let output = Command::new(program).args(args).uid(NOBODY).gid(NOBODY).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{program:?} {args:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{program:?} {args:?}: {complaint}");
        assert!(complaint.contains("root"), "{program:?} {args:?}: {complaint}");
    }
    // A check says what it cannot try, and checks the rest.
    let output =
        Command::new(&cli).args(["check", "-o", "json"]).uid(NOBODY).gid(NOBODY).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let rows = checked(&output);
    let (state, found, _) = &rows["capabilities"];
    assert!(state == "failed" && found.contains("CAP_SYS_ADMIN"), "{rows:#?}");
    let (state, _, remedy) = &rows["kernel"];
    assert!(state == "warning" && remedy.contains("root"), "{rows:#?}");
    assert!(rows.contains_key("clock") && rows.contains_key("etcd-port"), "{rows:#?}");
}

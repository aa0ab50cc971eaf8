//! Commands that answer in JSON.

use std::process::Command;

use serde_json::Value;

/// Runs a `clustermesh` command with `--output json`, which must succeed.
pub fn of(command: Command) -> Value {
    let (code, value, stderr) = run(command);
    assert_eq!(code, 0, "{value:#}\n{stderr}");
    value
}

/// Runs a `clustermesh` command with `--output json`: its exit code, what it printed, and its complaints.
pub fn run(mut command: Command) -> (i32, Value, String) {
    let output = command.args(["--output", "json"]).output().expect("the command runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or(-1);
    let value = match output.stdout.as_slice() {
        [] => Value::Null,
        text => serde_json::from_slice(text).unwrap_or_else(|error| {
            panic!("{command:?}: {error} in {:?}", String::from_utf8_lossy(text))
        }),
    };
    (code, value, stderr)
}

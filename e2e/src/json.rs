//! Runs commands with JSON output.

use std::process::Command;

use serde_json::Value;

/// Runs a `clustermesh` command with `--output json`, which must succeed.
pub fn of(command: Command) -> Value {
    let (code, value, stderr) = run(command);
    assert_eq!(code, 0, "{value:#}\n{stderr}");
    value
}

/// Runs a `clustermesh` command with `--output json`. Returns its exit code, standard output and standard error.
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

//! Runs other programs.

use std::process::Command;

use mesh_lab::command_line;

use crate::error::BenchError;

/// Runs a command, and returns what it printed on standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, BenchError> {
    let line = command_line(command);
    let failed = |printed: String| BenchError::Command { command: line, printed };
    match command.output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        // Some commands print problems on standard output.
        Ok(output) => {
            let printed = [output.stderr, output.stdout].concat();
            Err(failed(String::from_utf8_lossy(&printed).trim().to_owned()))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

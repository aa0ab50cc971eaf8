//! Generates shell completions.

use std::io::{self, Write as _};

use clap::{Command, CommandFactory as _};

use crate::{
    args::{Args, Shell},
    outcome::Outcome,
};

pub(crate) fn run(shell: Shell) -> anyhow::Result<Outcome> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: it is no error if the reader closes the pipe early.
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut offered(), "clustermesh", &mut script);
    let script = with_names(shell, String::from_utf8(script)?);
    io::stdout().lock().write_all(script.as_bytes())?;
    Ok(Outcome::Done)
}

/// The commands that help shows.
fn offered() -> Command {
    let all = Args::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    Command::new("clustermesh").args(all.get_arguments()).subcommands(shown)
}

/// Completes names after these words in bash; clap's function completes the rest.
const BASH: &str = r#"
_clustermesh_names() {
    local word="${COMP_WORDS[COMP_CWORD]}" names
    case "${COMP_WORDS[COMP_CWORD-1]}" in
        --context | --destination-context | --with-context | --peer-context)
            names="$(clustermesh config get-contexts -o name 2>/dev/null)" ;;
        --lab)
            names="$(clustermesh lab list -o name 2>/dev/null)" ;;
        --node)
            names="$(clustermesh node list -o name 2>/dev/null | sed 's,.*/,,')" ;;
        exec | check-pod)
            names="$(COLUMNS=1000 clustermesh pod list 2>/dev/null | awk 'NR > 1 { print $1 "/" $3 "/" $4 }')" ;;
        show | explain)
            if [[ " ${COMP_WORDS[*]} " != *" service "* ]]; then
                _clustermesh "$@"
                return
            fi
            names="$(clustermesh service list -o name 2>/dev/null)" ;;
        *)
            _clustermesh "$@"
            return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$names" -- "$word")
}
complete -F _clustermesh_names -o bashdefault -o default clustermesh
"#;

const ZSH: &str = r#"
_clustermesh_contexts() {
    compadd -- ${(f)"$(clustermesh config get-contexts -o name 2>/dev/null)"}
}
_clustermesh_labs() {
    compadd -- ${(f)"$(clustermesh lab list -o name 2>/dev/null)"}
}
_clustermesh_nodes() {
    compadd -- ${${(f)"$(clustermesh node list -o name 2>/dev/null)"}##*/}
}
_clustermesh_services() {
    compadd -- ${(f)"$(clustermesh service list -o name 2>/dev/null)"}
}
_clustermesh_pods() {
    compadd -- ${(f)"$(COLUMNS=1000 clustermesh pod list 2>/dev/null | awk 'NR > 1 { print $1 "/" $3 "/" $4 }')"}
}
"#;

const FISH: &str = r#"
for flag in context destination-context with-context peer-context
    complete -c clustermesh -l $flag -x -a "(clustermesh config get-contexts -o name 2>/dev/null)"
end
complete -c clustermesh -l lab -x -a "(clustermesh lab list -o name 2>/dev/null)"
complete -c clustermesh -l node -x -a "(clustermesh node list -o name 2>/dev/null | string replace -r '.*/' '')"
complete -c clustermesh -n "__fish_seen_subcommand_from service; and __fish_seen_subcommand_from show explain" -f \
    -a "(clustermesh service list -o name 2>/dev/null)"
function __clustermesh_pods
    COLUMNS=1000 clustermesh pod list 2>/dev/null | awk 'NR > 1 { print $1 "/" $3 "/" $4 }'
end
complete -c clustermesh -n "__fish_seen_subcommand_from lab; and __fish_seen_subcommand_from exec check-pod" -f \
    -a "(__clustermesh_pods)"
"#;

/// Arguments by what clap writes of them for zsh, and what completes them.
const ZSH_ARGUMENTS: [(&str, &str); 3] = [
    ("service -- ", ":_clustermesh_services"),
    ("place -- ", ":_clustermesh_pods"),
    ("pod -- ", ":_clustermesh_pods"),
];

/// A script that also completes the names of contexts, labs, nodes, services and pods, which are known when it is used.
fn with_names(shell: Shell, script: String) -> String {
    match shell {
        Shell::Bash => script + BASH,
        Shell::Fish => script + FISH,
        Shell::Zsh => {
            let script = script.replace(":CONTEXT:_default", ":CONTEXT:_clustermesh_contexts");
            let script = script.replace(":LAB:_default", ":LAB:_clustermesh_labs");
            let script = script.replace(":NODE:_default", ":NODE:_clustermesh_nodes");
            let named = |line: &str| {
                let argument = line.trim_start_matches(['\'', ':']);
                let is_it = |(begin, _): &&(&str, &str)| argument.starts_with(begin);
                match ZSH_ARGUMENTS.iter().find(is_it) {
                    Some((_, names)) => line.replace(":_default", names),
                    None => line.into(),
                }
            };
            let script = script.lines().map(named).collect::<Vec<_>>().join("\n") + "\n";
            // Its first line says whose completions these are.
            match script.split_once('\n') {
                Some((first, rest)) => format!("{first}\n{ZSH}{rest}"),
                None => script,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_in_every_shell() {
        let asked = [
            "config get-contexts -o",
            "lab list -o",
            "node list -o",
            "service list -o",
            "pod list 2>",
        ];
        let zsh = [
            ":CONTEXT:_clustermesh_contexts",
            ":LAB:_clustermesh_labs",
            ":NODE:_clustermesh_nodes",
            "or NAME:_clustermesh_services",
            "the node:_clustermesh_pods",
        ];
        for (shell, generator, words) in [
            (Shell::Bash, clap_complete::Shell::Bash, asked),
            (Shell::Fish, clap_complete::Shell::Fish, asked),
            (Shell::Zsh, clap_complete::Shell::Zsh, asked),
            (Shell::Zsh, clap_complete::Shell::Zsh, zsh),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(generator, &mut offered(), "clustermesh", &mut script);
            let script = with_names(shell, String::from_utf8(script).unwrap());
            for word in words {
                assert!(script.contains(word), "{shell:?} has no {word}");
            }
        }
    }
}

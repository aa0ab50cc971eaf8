# To be sourced. Puts a cargo that is new enough first in PATH: the current one, or else Debian's (package cargo-web). Appends
# the folder of the tools that cargo installs.
required=1.95
version=$( (cargo --version && rustc --version) 2>/dev/null | awk '{ print $2 }' | sort -V | head -1)
if [ "$(printf '%s\n%s\n' "$required" "${version:-0}" | sort -V | head -1)" != "$required" ] ||
    ! cargo clippy --version >/dev/null 2>&1; then
    PATH=/usr/bin:$PATH
fi
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export PATH
unset required version

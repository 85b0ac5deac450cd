# shellcheck shell=bash
# What the packaging commands share: pinned tools in target/tools, the three targets, the moment that all stamps carry.
# Sourced by build, package, release and verify-reproducible; it changes nothing outside of target/ but rustup's targets.

here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
tools=$here/target/tools
targets=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf)

# The versions are part of what makes the bytes: another zig links another musl, another cargo-deb writes another archive.
zigbuild=0.24.0 zig=0.15.2 cargo_deb=3.8.0 cargo_generate_rpm=0.21.1

# `say` and `die`, with the name of the command that sources this.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Every stamp in every file: the last commit's moment. A tree without git (a source archive) says it itself.
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct 2>/dev/null) ||
        die "this is not a git clone: set SOURCE_DATE_EPOCH to the release's moment, in seconds"
fi
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
umask 022

# version: of the workspace; the packages have the same one.
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/Cargo.toml"; }

# deb_arch TARGET, rpm_arch TARGET: the distributions' words for a target.
deb_arch() {
    case $1 in x86_64-*) echo amd64 ;; aarch64-*) echo arm64 ;; armv7-*) echo armhf ;; *) die "no Debian architecture for $1" ;; esac
}
rpm_arch() {
    case $1 in x86_64-*) echo x86_64 ;; aarch64-*) echo aarch64 ;; armv7-*) echo armv7hl ;; *) die "no rpm architecture for $1" ;; esac
}

# known TARGET: whether it is one of ours.
known() { case " ${targets[*]} " in *" $1 "*) ;; *) die "unknown target $1: one of ${targets[*]}" ;; esac; }

# need COMMAND PACKAGE: a program of the distribution.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2
    else
        die "there is no $1: sudo apt-get install $2"
    fi
}

# with_zig: the C compiler, the linker and musl itself for every target, from PyPI, in a folder of its own.
with_zig() {
    local at=$tools/zig-$zig-$zigbuild
    if [ ! -e "$at/.complete" ]; then
        need python3 python3
        python3 -c 'import ensurepip' 2>/dev/null || need no-such-command python3-venv
        say "installing cargo-zigbuild $zigbuild and zig $zig into $at"
        rm -rf "$at"
        python3 -m venv "$at"
        "$at/bin/pip" install -q --disable-pip-version-check "cargo-zigbuild==$zigbuild" "ziglang==$zig" >&2
        touch "$at/.complete"
    fi
    export PATH="$at/bin:$PATH"
}

# with_cargo_tool NAME VERSION: a cargo command of exactly this version, built once.
with_cargo_tool() {
    local at=$tools/$1-$2
    if [ ! -x "$at/bin/$1" ]; then
        say "installing $1 $2 into $at (once, a few minutes)"
        CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --version "$2" --root "$at" "$1" >&2
    fi
    export PATH="$at/bin:$PATH"
}

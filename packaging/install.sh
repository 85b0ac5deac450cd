#!/bin/sh
# Installs a release of trimtab by this machine's package manager, after its minisign signature was verified, and enrols the machine.
#
#   install.sh                                          installs
#   install.sh -- --url URL --key FILE --label K=V …    installs, enrols (the words of `trimtab init`) and starts
#   install.sh --from PLACE                             from another folder or URL than the project's release page
#
# What decides is the key below (TRIMTAB_KEY outranks it): not the server, not TLS. Nothing downloaded runs before the list of checksums is
# proven by it, and the package by the list. minisign comes from the distribution, which vouches for it.
set -eu
key=${TRIMTAB_KEY-}
version=${TRIMTAB_VERSION-}

die() { echo "install.sh: $*" >&2; exit 1; }
from=
while [ $# -gt 0 ]; do
    case $1 in
    --from) [ $# -gt 1 ] || die "--from needs a folder or a URL"; from=$2; shift 2 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown word $1 (see --help)" ;;
    esac
done
[ -n "$key" ] || die "this copy carries no key (it is not from a release): set TRIMTAB_KEY to the project's minisign key"
[ -n "$version" ] || die "this copy carries no version (it is not from a release): set TRIMTAB_VERSION"
[ "$(id -u)" = 0 ] || die "it must run as root (sudo)"
[ -n "$from" ] || from=https://github.com/trimtab/trimtab/releases/download/v$version

if command -v dpkg >/dev/null && [ -e /etc/debian_version ]; then
    kind=deb package=trimtab_$version-1_$(dpkg --print-architecture).deb
elif command -v rpm >/dev/null; then
    arch=$(uname -m)
    [ "$arch" != armv7l ] || arch=armv7hl
    kind=rpm package=trimtab-$version-1.$arch.rpm
else
    die "neither dpkg nor rpm is here; the plain binary and the units can be installed by hand, see the README"
fi

bring() { # bring COMMAND
    command -v "$1" >/dev/null && return
    if [ $kind = deb ]; then
        apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$1" >&2
    else
        dnf install -y "$1" >&2
    fi || die "there is no $1, and it could not be installed"
}
bring minisign

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# apt reads the package as a user of its own.
chmod 0755 "$folder"
fetch() { # fetch NAME
    case $from in
    https://* | http://*)
        command -v curl >/dev/null || command -v wget >/dev/null || bring curl
        if command -v curl >/dev/null; then
            curl -fsSL --retry 5 -o "$folder/$1" "$from/$1"
        else
            wget -q -O "$folder/$1" "$from/$1"
        fi
        ;;
    *) cp -- "$from/$1" "$folder/$1" ;;
    esac || die "$from/$1 could not be fetched"
}
fetch SHA256SUMS
fetch SHA256SUMS.minisig
# The signed comment names the version: an older list is not passed off as this one.
comment=$(minisign -V -Q -P "$key" -m "$folder/SHA256SUMS") || die "the signature of SHA256SUMS does not hold: nothing was installed"
[ "$comment" = "trimtab $version" ] || die "the signed list is of '$comment' and not of trimtab $version: nothing was installed"
line=$(grep -F "  $package" "$folder/SHA256SUMS") || die "the release has no $package"
fetch "$package"
(cd "$folder" && echo "$line" | sha256sum -c --quiet --strict -) || die "$package is not the one that was signed: nothing was installed"

if [ $kind = deb ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$folder/$package" >&2
elif command -v dnf >/dev/null; then
    dnf install -y "$folder/$package" >&2
else
    rpm -U --replacepkgs "$folder/$package"
fi
if [ $# -gt 0 ]; then
    trimtab init "$@"
    systemctl enable --now trimtab.service
else
    echo "Installed trimtab $version. Next: trimtab init --help"
fi

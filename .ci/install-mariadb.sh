#!/bin/sh
# Puts a MariaDB server for the tests into DIRECTORY, without root: from Debian's packages, unpacked and not installed.
# Does nothing when mariadbd is on the machine already. Where it cannot, it says so; the tests that need it then fail.
#
#   .ci/install-mariadb.sh DIRECTORY
set -eu
target=$1

for found in "$(command -v mariadbd || true)" /usr/sbin/mariadbd "$target/usr/sbin/mariadbd"; do
    if [ -x "$found" ]; then exit 0; fi
done

give_up() {
    echo "install-mariadb: expected mariadbd, or Debian's apt-get to fetch it with; got $1." >&2
    echo "install-mariadb: install it with: apt-get install --no-install-recommends mariadb-server-core" >&2
    exit 0
}
command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || give_up "neither"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
# Lists and cache of our own: those of the machine belong to root, and may be empty.
options="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un)"
# shellcheck disable=SC2086
apt-get $options -qq update > "$work/log" 2>&1 || give_up "$(tail -n 1 "$work/log")"
# What every machine with Python has is left out; so are configuration files.
# shellcheck disable=SC2086
packages=$(apt-cache $options depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances mariadb-server-core 2> "$work/log" \
    | grep '^[a-z]' | grep -Ev '^(libc6|libcrypt1|libgcc-s1|gcc-.*|libelogind0.*|mysql-common|mariadb-common|debconf.*|cdebconf.*)$') \
    || give_up "no package mariadb-server-core"
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get $options -qq download $packages) > "$work/log" 2>&1 || give_up "$(tail -n 1 "$work/log")"
for package in "$work"/debs/*.deb; do
    dpkg-deb --extract "$package" "$work/root"
done
mkdir -p "$(dirname "$target")"
rm -rf "$target"
mv "$work/root" "$target"
echo "install-mariadb: MariaDB for the tests is in $target" >&2

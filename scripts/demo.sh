#!/bin/bash
# A look into one VE from inside and outside, in a state dir that goes when this ends: demo.sh DIRECTORY-OF-VE
set -euo pipefail

PATH=$(realpath "$1"):/usr/sbin:/usr/bin:/sbin:/bin
state=$(mktemp -d /var/tmp/ve-demo.XXXXXX)
chmod 755 "$state"
export VE_STATE_DIR=$state

clean_up() {
    ve stop --fast 101 >/dev/null 2>&1 || true
    ve destroy 101 >/dev/null 2>&1 || true
    rm -rf "$state"
}
trap clean_up EXIT

say() { printf '\n# %s\n' "$*"; }

# Shows the command, then runs it.
run() {
    printf '$ %s\n' "${*@Q}" | sed "s/'\([A-Za-z0-9_.\/:=-]*\)'/\1/g; s|$state|\$VE_STATE_DIR|g"
    "$@"
}

say "A template: a root file system that VEs share and never change."
run ve template build busybox
run ve template list

say "A VE of it: create, start, and it is there."
run ve create 101 --template busybox --hostname red
run ve start 101
run ve list

say "From inside: its own init is PID 1, its own host name, nothing of the host."
run ve exec 101 -- ps
run ve exec 101 -- hostname
run ve exec 101 -- touch /root/hello
run ve exec 101 -- sh -c 'echo 10.0.0.1 blue >> /etc/hosts'
run ve exec 101 -- rm /etc/shells

say "From outside: its processes with both PIDs, and what it changed, in plain files."
run ve ps
run ve status 101
run ve diff 101
run ls -lR "$state/private/101/upper"

say "And away."
run ve stop 101
run ve destroy 101
run ve list

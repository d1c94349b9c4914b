#!/bin/sh
# Installs what the browser tests need and is not there: Chromium, and Node.js with npm.
# It can only as root on Debian or Ubuntu; what stays missing is named, and the tests that want it
# skip. Never fails: `sh scripts/browsers.sh`.
set -u

is_there() { command -v "$1" >/dev/null 2>&1; }

install() {
    # One at a time, in this order: some packages of Node.js bring npm, and refuse Debian's.
    DEBIAN_FRONTEND=noninteractive timeout 300 \
        apt-get install --yes --no-install-recommends "$1" >"$log" 2>&1 || tail -n 3 "$log" >&2
}

is_there chromium && is_there node && is_there npm && exit 0

if [ "$(id -u)" -eq 0 ] && is_there apt-get; then
    echo "browsers: installing Chromium and Node.js (a minute or two the first time)"
    log=$(mktemp)
    timeout 120 apt-get update >"$log" 2>&1 || tail -n 3 "$log" >&2
    is_there chromium || install chromium
    is_there node || install nodejs
    is_there npm || install npm
    rm -f "$log"
fi

for command in chromium node npm; do
    is_there "$command" || echo "browsers: there is no $command; tests that need it are skipped" >&2
done
exit 0

#!/bin/sh
# Installs what the browser tests need and is not there: Chromium, Firefox, WebKitGTK with a display
# that nobody sees, PulseAudio, and Node.js with npm.
# It can only as root on Debian or Ubuntu; what stays missing is named, and the tests that want it
# skip. Never fails: `sh scripts/browsers.sh`.
set -u

# By a command that they bring. In this order: some packages of Node.js bring npm, and refuse
# Debian's.
WANTED='chromium:chromium node:nodejs npm:npm firefox-esr:firefox-esr pulseaudio:pulseaudio
WebKitWebDriver:webkit2gtk-driver Xvfb:xvfb'
# How the Python of the system, and no other, gets at WebKitGTK; and how that gets at PulseAudio.
WEBKIT='python3-gi gir1.2-webkit2-4.1 gstreamer1.0-plugins-good'

is_there() { command -v "$1" >/dev/null 2>&1; }

has_webkit() {
    /usr/bin/python3 -c "import gi; gi.require_version('WebKit2', '4.1')" >/dev/null 2>&1 &&
        ls /usr/lib/*/gstreamer-1.0/libgstpulseaudio.so >/dev/null 2>&1
}

missing() {
    for pair in $WANTED; do
        is_there "${pair%%:*}" || echo "$pair"
    done
}

install() {
    # One at a time: what there is not must not keep the others away.
    DEBIAN_FRONTEND=noninteractive timeout 300 \
        apt-get install --yes --no-install-recommends "$1" >"$log" 2>&1 || tail -n 3 "$log" >&2
}

[ -z "$(missing)" ] && has_webkit && exit 0

if [ "$(id -u)" -eq 0 ] && is_there apt-get; then
    echo "browsers: installing browsers and Node.js (a few minutes the first time)"
    log=$(mktemp)
    timeout 120 apt-get update >"$log" 2>&1 || tail -n 3 "$log" >&2
    for pair in $(missing); do
        install "${pair#*:}"
    done
    has_webkit || for package in $WEBKIT; do
        install "$package"
    done
    rm -f "$log"
fi

for pair in $(missing); do
    echo "browsers: there is no ${pair%%:*}; tests that need it are skipped" >&2
done
has_webkit || echo "browsers: there is no $WEBKIT; tests that need it are skipped" >&2
exit 0

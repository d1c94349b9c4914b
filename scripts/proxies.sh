#!/bin/sh
# Installs what some tests want and is not there: nginx, HAProxy, libfaketime (jumps of the clock) and
# Prometheus with promtool.
# It can only as root on Debian or Ubuntu; what stays missing is named, and the tests that want it
# skip. Never fails: `sh scripts/proxies.sh`.
set -u
PATH=$PATH:/usr/sbin:/usr/local/sbin

is_there() {
    case $1 in
        libfaketime) ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing() {
    is_there nginx || echo nginx-light
    is_there haproxy || echo haproxy
    is_there libfaketime || echo libfaketime
    is_there promtool || echo prometheus
}

[ -n "$(missing)" ] || exit 0

if [ "$(id -u)" -eq 0 ] && is_there apt-get; then
    echo "proxies: installing $(missing | tr '\n' ' ')"
    log=$(mktemp)
    timeout 120 apt-get update >"$log" 2>&1 || tail -n 3 "$log" >&2
    for package in $(missing); do
        # RUNLEVEL=1: only the program; Debian would start a service.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 timeout 300 \
            apt-get install --yes --no-install-recommends "$package" >"$log" 2>&1 ||
            tail -n 3 "$log" >&2
    done
    rm -f "$log"
fi

for package in $(missing); do
    echo "proxies: there is no $package; tests that need it are skipped" >&2
done
exit 0

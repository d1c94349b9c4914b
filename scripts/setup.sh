#!/bin/sh
# Makes a virtual environment and installs pinned dependencies: `sh scripts/setup.sh .venv`.
# Needs Python 3.11 or newer with venv; says so in one line when it is not there.
set -eu
venv=${1:?usage: setup.sh FOLDER}

fail() {
    echo "setup: $1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
}

python=$(find_python)
[ -n "$python" ] || fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || true); install it or set PYTHON=/path/to/python3"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 || ! new_enough "$venv/bin/python"; then
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
    echo "setup: making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$venv cannot be made; is this folder writable?"
fi

echo "setup: installing (a few minutes the first time)"
# Versions are pinned in constraints.txt; editable, so that a changed file needs no new setup.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable '.[test]' ||
    fail "the dependencies cannot be installed; the lines above say why"
echo "setup: done, $venv/bin/voice-relay is ready"

#!/bin/sh
# Builds the image on a base made here (debootstrap), where no registry of images can be reached, and
# tries it: `sh scripts/image.sh FOLDER`, as root on Debian or Ubuntu. FOLDER may be thrown away.
# BASE=... takes that base in place of ours.
set -eu
folder=${1:?usage: image.sh FOLDER}
python=${PYTHON:-.venv/bin/python}
release=${RELEASE:-bookworm}
# Without a daemon, without namespaces and with plain folders: that works in a container, too.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot

fail() {
    echo "image: $1" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || fail "this needs root"
for program in debootstrap buildah; do
    command -v $program >/dev/null 2>&1 ||
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $program \
            >/dev/null 2>&1 || fail "there is no $program; install it"
done
mkdir -p "$folder"

if [ -z "${BASE:-}" ]; then
    root=$folder/root
    if [ ! -d "$root/wheels" ]; then
        echo "image: making a base of $release"
        debootstrap --variant=minbase \
            --include=python3,python3-venv,python3-pip,ca-certificates "$release" "$root" \
            >"$folder/debootstrap.log" 2>&1 || fail "debootstrap failed: $folder/debootstrap.log"
        mkdir "$root/wheels"
        printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$root/etc/pip.conf"
    fi
    # What the build installs, fetched by the pip of this machine as it is set up.
    version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" - "$folder" <<'EOF'
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
names = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
lines = [name.split(";")[0] for name in names]
lines += re.findall(r"cyclonedx-bom==\S+", open("deploy/Containerfile").read())
open(sys.argv[1] + "/requirements.txt", "w").write("\n".join(lines))
EOF
    "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
        --python-version "$version" --constraint constraints.txt \
        --requirement "$folder/requirements.txt" --dest "$root/wheels" ||
        fail "the packages cannot be fetched"
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$root" / >/dev/null
    BASE=$(buildah commit --quiet "$container" localhost/voice-relay-base)
    buildah rm "$container" >/dev/null
fi

echo "image: building"
buildah build --quiet --format docker --network host --build-arg BASE="$BASE" \
    --tag localhost/voice-relay --file deploy/Containerfile . >"$folder/build.log" 2>&1 ||
    fail "it cannot be built: $folder/build.log"
container=$(buildah from localhost/voice-relay)
trap 'buildah rm "$container" >/dev/null' EXIT

within() {
    buildah run "$container" -- "$@"
}

echo "image: $(within voice-relay --version), as $(within id -u)"
[ "$(within id -u)" != 0 ] || fail "it runs as root"
within env RELAY_AUTH=jwt RELAY_JWT_SECRET=thirty-two-letters-at-the-very-least \
    voice-relay check >"$folder/check.log" 2>&1 || fail "it has no configuration: $folder/check.log"
for place in /opt/voice-relay/lib /etc /usr; do
    ! within touch "$place/x" 2>/dev/null || fail "it can write to $place"
done
within touch /var/lib/voice-relay/x || fail "it cannot write its volume"
! within voice-relay dev >"$folder/dev.log" 2>&1 || fail "it has what only development needs"
! within python -m control.health_check >"$folder/health.log" || fail "a relay is said to be well"
within cat /opt/voice-relay/share/sbom.cdx.json >"$folder/sbom.cdx.json"
"$python" - "$folder/sbom.cdx.json" <<'EOF'
import json, sys
listed = json.load(open(sys.argv[1]))
names = {one["name"] for one in listed["components"]}
assert listed["bomFormat"] == "CycloneDX" and {"litestar", "asyncpg", "voice-relay"} <= names, names
assert not names & {"pytest", "numpy", "cyclonedx-bom"}, names
print(f"image: its bill of materials has {len(names)} components")
EOF

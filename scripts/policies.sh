#!/bin/sh
# Holds the manifests and the Containerfile against checkov's policies: `sh scripts/policies.sh FOLDER`.
# checkov is large and in an environment of its own, in FOLDER, which may be thrown away.
set -eu
folder=${1:?usage: policies.sh FOLDER}
[ -x "$folder/venv/bin/checkov" ] || {
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check checkov
}
mkdir -p "$folder/files"
example=deploy/kubernetes/overlays/example
kubectl kustomize $example >"$folder/files/relay.yaml"
kubectl kustomize $example/migrate >"$folder/files/migrate.yaml"
cp deploy/Containerfile "$folder/files/Dockerfile"
exec "$folder/venv/bin/checkov" --directory "$folder/files" --framework kubernetes dockerfile \
    --quiet --compact --skip-download

"""A certificate for the agent, made when needed with the `openssl` program.

Load tests: so that TLS towards the agent is checked as it is in production.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec


class Certificate(msgspec.Struct, frozen=True):
    """Files: the authority to trust, the agent's certificate and its key."""

    ca: str
    certificate: str
    key: str


def make(folder: Path) -> Certificate | None:
    """One for 127.0.0.1 and localhost; None when there is no `openssl` to make it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    certificate, key = folder / "agent.pem", folder / "agent.key"
    request, extensions = folder / "agent.csr", folder / "agent.ext"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
        "basicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
    )
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    self_signed = ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2"]
    usage = ["-subj", "/CN=load tests", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    wanted = ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost"]
    signed = ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
    into = ["-out", certificate, "-days", "2", "-extfile", extensions]
    for command in ([*self_signed, *usage], wanted, [*signed, *into]):
        done = subprocess.run([openssl, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            return None
    return Certificate(str(ca), str(certificate), str(key))

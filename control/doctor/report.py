"""What the doctor found: a line for each hop, and no secret in it.

Control plane, pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """One hop: what was seen, and what to do about it."""

    hop: str
    status: Status
    detail: str
    advice: str = ""


class Report:
    """All findings so far. What is secret is masked, whoever quoted it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.secrets: list[str] = []

    @property
    def is_well(self) -> bool:
        return all(finding.status != "failed" for finding in self.findings)

    def add(self, hop: str, status: Status, detail: str, advice: str = "") -> None:
        self.findings.append(Finding(hop, status, self._mask(detail), self._mask(advice)))

    def judge(
        self, hop: str, is_well: bool, detail: str, advice: str, otherwise: Status = "failed"
    ) -> None:
        self.add(hop, "ok" if is_well else otherwise, detail, "" if is_well else advice)

    def ok(self, hop: str, detail: str) -> None:
        self.add(hop, "ok", detail)

    def fail(self, hop: str, detail: str, advice: str = "") -> None:
        self.add(hop, "failed", detail, advice)

    def _mask(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())


def write_text(report: Report) -> str:
    """One line for each hop."""
    width = max(len(finding.hop) for finding in report.findings)
    lines = []
    for one in report.findings:
        mark = one.status.upper() if one.status == "failed" else one.status
        advice = f": {one.advice}" if one.advice else ""
        lines.append(f"{mark:8} {one.hop:{width}}  {one.detail}{advice}")
    return "\n".join(lines)


def write_json(report: Report) -> bytes:
    return msgspec.json.encode({"well": report.is_well, "findings": report.findings})

"""Whether there are traces, and which exporter of OpenTelemetry sends them.

The libraries are those of the extra `otel`: who traces nothing imports none of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from config.install_advice import say_how_to_add

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from control.traces.traces import Traces

log = logging.getLogger(__name__)


def open_traces(kind: str, node_id: UUID, *, with_content: bool) -> Traces | None:
    """None: nobody wants any, or it is logged why there are none. A relay without them serves
    people all the same."""
    if kind == "none":
        return None
    try:
        exporter = _open_exporter(kind)

        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from control.traces.traces import Traces
    except ImportError as error:
        reason = f"{error.name} is not installed: {say_how_to_add('otel')}"
    except ValueError as error:
        reason = str(error)
    else:
        return Traces(lambda: BatchSpanProcessor(exporter), node_id, with_content=with_content)
    log.warning("traces_off reason=%s", reason)
    return None


def _open_exporter(kind: str) -> SpanExporter:
    """Raises `ValueError` and `ImportError`."""
    if kind == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    raise ValueError(f"OTEL_TRACES_EXPORTER: expected otlp, console or none, got {kind[:40]!r}")

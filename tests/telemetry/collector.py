"""An OTLP collector for tests: takes what is sent over HTTP, reads it by OpenTelemetry's types, and can misbehave."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def plain(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value"))


class Collector:
    """Serves on a free port until `stop`. `status`: what it answers; `delay_s`: after how long."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.resource: dict[str, Any] = {}
        self.spans: list[Span] = []
        self.traces = 0  # outermost spans among them
        self.metrics: dict[str, Any] = {}  # the last of each name
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                collector.requests += 1
                time.sleep(collector.delay_s)
                if collector.status == 200:
                    collector.take(self.path, gzip.decompress(body))
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = {item.key: plain(item.value) for item in each.resource.attributes}
                spans = [span for scope in each.scope_spans for span in scope.spans]
                self.spans += spans
                self.traces += sum(span.kind == Span.SPAN_KIND_SERVER for span in spans)
        elif path == "/v1/metrics":
            for each in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics |= {metric.name: metric for scope in each.scope_metrics for metric in scope.metrics}

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

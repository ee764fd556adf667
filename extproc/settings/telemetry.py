"""Where traces, metrics and the operator's alerts go."""

from pydantic import Field

from extproc.settings.fields import Duration, Section, Url


class Telemetry(Section):
    """Traces and metrics to a collector, by OTLP over HTTP."""

    otlp_endpoint: Url | None = Field(
        default=None, description="base URL, such as http://collector:4318; without it nothing is sent"
    )
    otlp_headers: dict[str, str] = Field(default={}, repr=False, description="such as a collector's API key")
    service_name: str = "llm-gateway"
    metrics_interval: Duration = 60.0
    content: bool = Field(default=False, description="traces carry what was asked and answered, without credentials")


class OperatorAlerts(Section):
    """Where alerts about providers go: a refused credential, say."""

    webhook: str | None = Field(default=None, pattern=r"^https?://.+")
    secret: str | None = Field(default=None, repr=False)

"""Providers: what they speak, where they are, and their credential, which only Envoy ever holds."""

import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, model_validator

from extproc.settings.fields import Duration, Section

# Amazon's own names, those of private endpoints in a VPC too: vpce-0a1b.bedrock-runtime.eu-west-1.vpce.amazonaws.com.
_BEDROCK_HOST = re.compile(r"(?:.*\.)?bedrock-runtime(?:-fips)?\.([a-z]+(?:-[a-z]+)+-\d+)\..+")


# Who knows `max_completion_tokens` and developer messages: OpenAI, and who runs its models. Of the others many take no
# notice of the first, and an answer has no limit (DeepSeek: pi#8018; Ollama: ollama#7125), or refuse the second
# (DeepSeek: pi#1048; DeepInfra: pi#1578); all know `max_tokens` and `system`.
_OF_OPENAI = re.compile(r"(?:.*\.)?api\.openai\.com|.*\.azure\.com")
# Tool calls in their streams are numbered in many ways: extproc/adapters/toolcalls.py.
_OF_OTHERS = frozenset({"max_completion_tokens", "developer", "tool_call_index"})
# Servers that refuse a request with one parameter more than they know, by host. Mistral's answers 422 `extra_forbidden`
# (openai-agents-python#442, eca#231, openclaude#739, OpenHands-CLI#83), for what a model that reasons has left in a
# message too (litellm#30835, crush#1590), and 400 for a tool call's id that is not nine letters and digits
# (langchain#24668); it tells usage unasked. Groq's answers 400 `property … is unsupported` for what was left, and for
# Anthropic's marks (freellmapi#1070, hermes-agent#100819).
_LEFT_BEHIND = frozenset({"reasoning_content", "reasoning_details", "cache_control"})
_STRICT = {
    "api.mistral.ai": _OF_OTHERS
    | _LEFT_BEHIND
    | {"reasoning", "stream_options", "store", "metadata", "user", "safety_identifier", "tool_call_id"},
    "api.groq.com": _OF_OTHERS | _LEFT_BEHIND,
}
# OpenAI's models that reason take no `max_tokens` (aiproxy#337, dify#24307), and those before GPT-5.1 sample as they
# like (vercel/ai#10932). Source: platform.openai.com/docs/guides/reasoning.
_REASONING = re.compile(r"o\d.*|gpt-[5-9].*")
_NO_SAMPLING = re.compile(r"o\d.*|gpt-5(-mini|-nano|-pro|-codex)?(-\d{4}-\d\d-\d\d)?")
_SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
_LIMITS = {"max_tokens", "max_completion_tokens"}
_NEEDED = {"model", "messages", "stream"}


class DemoFaults(Section):
    """How the built-in simulator behaves; see `gateway demo --help`."""

    first_byte: Duration | None = None
    chunk_interval: Duration | None = None
    chunks: int | None = Field(default=None, ge=1)


class Provider(Section):
    """A provider: its wire format, where it is, and its credential (which only Envoy ever holds)."""

    format: Literal["openai", "azure", "anthropic", "google", "bedrock", "demo"]
    base_url: str | None = None
    credential: str | None = Field(default=None, repr=False)
    credential_file: Path | None = Field(
        default=None, description="a file that holds the credential, such as a mounted Secret; its change is noticed"
    )
    unsupported: list[str] | None = Field(
        default=None,
        description="parameters of OpenAI's that this server refuses or takes no notice of, for format: openai or"
        " azure. One of max_tokens and max_completion_tokens is sent as the other; stream_options, and what nobody"
        " misses, not at all; `developer` messages as `system`; of a message reasoning, reasoning_content,"
        " reasoning_details and cache_control are left out; with tool_call_id, ids of tool calls are made of nine"
        " letters and digits; with tool_call_index, a worker reads answers to requests with tools and numbers the"
        " calls; any other is a 400 that names it (default: of OpenAI's own servers and Azure's what a model that"
        " reasons refuses; of others max_completion_tokens, developer and tool_call_index, and of api.mistral.ai and"
        " api.groq.com what they are known to refuse)",
    )
    speaks: Literal["openai", "anthropic", "google"] = Field(
        default="openai", description="for format: demo, the wire format the simulator speaks"
    )
    demo_without_credential: bool = Field(
        default=False, description="with an empty credential the built-in simulator stands in for this provider"
    )
    demo: DemoFaults = DemoFaults()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format != "demo":
            if not self.base_url:
                raise ValueError("base_url: needed unless format is demo")
            url = urlsplit(self.base_url)
            if url.scheme not in ("http", "https") or not url.hostname or not _has_port(url):
                raise ValueError("base_url: must be http://host[:port][/path] or https://…")
            if "@" in url.netloc:  # it would be sent to nobody, and shown by `gateway check`
                raise ValueError("base_url: must not have a user or a password in it; credential is for it")
            if self.demo_without_credential and self.format not in ("openai", "anthropic", "google"):
                raise ValueError("demo_without_credential: the simulator speaks openai, anthropic and google only")
        self._check_unsupported()
        if self.credential_file is not None and self.demo_without_credential:
            raise ValueError("credential_file: not together with demo_without_credential")
        if self.credential is not None and re.search(r"[\x00-\x1f\x7f]", self.credential):
            raise ValueError("credential: must not contain control characters or line ends")
        return self

    def _check_unsupported(self) -> None:
        named = set(self.unsupported or ())
        if named and self.wire_format not in ("openai", "azure"):
            raise ValueError("unsupported: only with format: openai or azure; of the others the gateway knows it")
        if needed := named & _NEEDED:
            raise ValueError(f"unsupported: there is no request without {min(needed)}")
        if named >= _LIMITS:
            raise ValueError("unsupported: without max_tokens and max_completion_tokens no answer has a limit")

    def refused_parameters(self, model: str = "") -> frozenset[str]:
        """Parameters of OpenAI's that its server refuses for its model of this name, or for any."""
        if self.unsupported is not None:
            return frozenset(self.unsupported)
        if self.wire_format not in ("openai", "azure"):
            return frozenset()
        host = urlsplit(self.base_url or "").hostname or ""
        if self.format == "openai" and not _OF_OPENAI.fullmatch(host):
            return _STRICT.get(host, _OF_OTHERS)
        refused = {"max_tokens"} if _REASONING.fullmatch(model) else set()
        return frozenset(refused | (_SAMPLING if _NO_SAMPLING.fullmatch(model) else set()))

    @property
    def is_demo(self) -> bool:
        """Whether the built-in simulator answers for this provider."""
        return self.format == "demo" or (self.demo_without_credential and not self.credential)

    @property
    def signing_region(self) -> str | None:
        """The AWS region for which Envoy signs what it sends there; None: nothing is signed."""
        if self.format != "bedrock" or self.credential is not None:
            return None
        host = _BEDROCK_HOST.fullmatch(urlsplit(self.base_url or "").hostname or "")
        return host[1] if host else None

    @property
    def wire_format(self) -> str:
        """The format spoken on the wire: openai, azure, anthropic, google or bedrock."""
        return self.speaks if self.format == "demo" else self.format


def _has_port(url: SplitResult) -> bool:
    """Whether its port is one, if it names any."""
    try:
        return url.port != 0
    except ValueError:
        return False

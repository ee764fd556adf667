"""What of a request speaks about how hard it is: the last user turn, and what stands around it. Pure.

In: a `ChatRequest` as `extproc.chat` checked it. Out: `Conversation`. Content parts of unknown kinds are passed over.
Called by `extproc.routing.classify`; rules of the configuration look at the same.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from extproc.chat import text_chars
from extproc.records import ChatRequest

_SYSTEM = ("system", "developer")
_CODE_MARKS = ("```", "\ndef ", "\nclass ", "function ", "#include", "import ", "SELECT ", "</", "();", "=> {", "};")


class Conversation(msgspec.Struct, frozen=True):
    """A request, as routing sees it."""

    text: str  # of the last user turn
    before: str  # of the user turn before it
    chars: int  # of all messages
    system_chars: int
    has_tools: bool
    has_images: bool

    @property
    def has_code(self) -> bool:
        """Whether the last user turn carries program text: a fence, or two marks of a programming language."""
        return "```" in self.text or sum(mark in self.text for mark in _CODE_MARKS) > 1


def conversation(chat: ChatRequest) -> Conversation:
    """What routing sees of `chat`."""
    listed = chat.body["messages"]
    turns = [message for message in listed if message["role"] == "user"]
    return Conversation(
        text=_text(turns[-1]) if turns else "",
        before=_text(turns[-2]) if len(turns) > 1 else "",
        chars=text_chars(chat),
        system_chars=sum(len(_text(message)) for message in listed if message["role"] in _SYSTEM),
        has_tools=bool(chat.body.get("tools")),
        has_images=any(part["type"] == "image_url" for message in turns for part in _parts(message)),
    )


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in _parts(message) if isinstance(part.get("text"), str))


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    return iter(content if isinstance(content, list) else ())

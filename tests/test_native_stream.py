"""envoy/native_stream.lua, by LuaJIT as Envoy has it: however a stream is cut, client and row are told the same."""

import json
from string import Template
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lupa import luajit21

from control.render.bootstrap import asset
from control.render.filters import NAMES
from tests.adapters.cases import at, cases

PLAY = """
return function(pieces, gw)
  local shown, told, chunks = {}, {}, {}
  local metadata = { set = function(_, _, key, value) told[key] = value end }
  local function chunk(data)
    return {
      data = data,
      length = function(self) return #self.data end,
      getBytes = function(self, from, count) return self.data:sub(from + 1, from + count) end,
      setBytes = function(self, new) assert(not self.gone, "it has left"); self.data = new end,
    }
  end
  local handle = {
    streamInfo = function() return { dynamicMetadata = function() return metadata end } end,
    base64Escape = function(_, data) return data end,
    body = function() chunks[1] = chunk(""); return chunks[1] end,
    bodyChunks = function()
      local number = 0
      return function()
        if number > 0 then chunks[number].gone = true end
        number = number + 1
        chunks[number] = pieces[number] and chunk(pieces[number]) or nil
        if not chunks[number] and number > 1 then chunks[number - 1].gone = nil end
        return chunks[number]
      end
    end,
  }
  pass_stream(handle, gw)
  for number, each in ipairs(chunks) do shown[number] = each.data end
  return table.concat(shown), told
end
"""
LUA = luajit21.LuaRuntime(encoding=None)
_pass = LUA.execute((Template(asset("native_stream.lua")).substitute(NAMES) + PLAY).encode())


def said(*pieces: bytes, hide: bool, record: bool = False) -> tuple[bytes, dict[bytes, Any]]:
    """What the client is shown, and the metadata."""
    gw = LUA.table_from({b"hide_usage": hide, b"record": record})
    shown, told = _pass(LUA.table_from(pieces), gw)
    return shown, dict(told.items())


def chunk(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice], **more}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COUNTED = b"data: " + json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
# What a model may write, and what may come with it: none of it is what it looks like.
TEXTS = [
    "data: [DONE]",
    '\n\ndata: [DONE]\n\n"finish_reason":"length"',
    '{"error": {"usage": {"x": 1}}}',
    "Grüße, 你好",
]
WRITTEN = b"".join(chunk(text + end, usage=None) for text in TEXTS for end in ("", "x" * 70))
ANSWERS = {
    "whole": WRITTEN + LAST + COUNTED + DONE,
    "no last word": WRITTEN + LAST + COUNTED,
    "usage on the last": WRITTEN + chunk("", usage=USAGE) + LAST + DONE,
    "cut": WRITTEN + LAST[:-9],
    "before its end": WRITTEN,
    "an error": WRITTEN + b'data: {"error":{"message":"m"}}\n\n' + DONE,
    "an error beside a choice": chunk("a") + LAST[:-3].replace(b"stop", b"error") + b',"error":{"code":1}}\n\n' + DONE,
    "never done": b": ping\n\n" + chunk("a") + LAST.replace(b"stop", b"tool_calls"),
    "usage on each": chunk("a", usage=USAGE) + chunk("b", usage=USAGE | {"completion_tokens": 3}) + LAST + DONE,
    "CRLF": (WRITTEN + LAST + COUNTED + DONE).replace(b"\n\n", b"\r\n\r\n"),
}
# Azure's: what its filter says, of the prompt ahead of the answer, and of the answer behind it.
AHEAD = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}\n\n'
BEHIND = b'data: {"choices":[{"index":0,"content_filter_results":{},"content_filter_offsets":{"end_offset":9}}]}\n\n'
AZURES = {"ahead and behind": AHEAD + chunk("a") + LAST + BEHIND + COUNTED + DONE}
CASES = [
    *(pytest.param(data, hide, id=f"{name}-{hide}") for name, data in ANSWERS.items() for hide in (True, False)),
    *(
        pytest.param(case.upstream, hide, id=f"{case.name}-{hide}")
        for case in cases()
        if case.stream and case.path.parent.name in ("openai", "azure")
        for hide in (True, False)
    ),
    # Who asks for usage has every byte at once: what is passed of half an event cannot be mended any more.
    *(pytest.param(data, True, id=name) for name, data in AZURES.items()),
]
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@pytest.mark.parametrize(("data", "hide"), CASES)
@settings(deadline=None, max_examples=40)
@given(cuts=CUTS)
@example(cuts=list(range(10_000)))
def test_in_any_cut_it_is_the_same(data: bytes, hide: bool, cuts: list[int]) -> None:
    pieces = filter(None, at(data, sorted({cut for cut in cuts if cut < len(data)})))
    shown, told = said(*pieces, hide=hide, record=True)
    expected, of_the_whole = said(data, hide=hide, record=True)
    kept, all_of_it = told.pop(b"sse", b""), of_the_whole.pop(b"sse", b"")
    assert (shown, told) == (expected, of_the_whole)
    assert data.startswith(kept)
    if NAMES["cut_key"].encode() not in told:  # up to its last word: what comes behind that is of no account
        assert kept.rstrip() == all_of_it.rstrip()


def test_usage_is_told_and_shown_to_those_who_asked() -> None:
    data = ANSWERS["whole"]
    shown, told = said(data, hide=True)
    assert shown == data.replace(COUNTED, b"")
    assert said(data, hide=False) == (data, told)
    usage = told.pop(NAMES["usage_key"].encode())
    assert (json.loads(usage), told) == (USAGE, {b"finish_reason": b"stop"})


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("name", ["cut", "before its end"])
def test_a_stream_that_says_done_in_its_text_alone_is_cut(name: str, hide: bool) -> None:
    shown, told = said(*(ANSWERS[name][at : at + 1] for at in range(len(ANSWERS[name]))), hide=hide)
    assert json.loads(shown.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]["code"] == "provider_error"
    assert told[NAMES["cut_key"].encode()] is True

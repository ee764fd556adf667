"""Tokens of images, audio and files, against the providers' own worked examples."""

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.media import (
    AreaImages,
    Base64,
    FlatImages,
    GoogleTiles,
    MediaRule,
    PatchImages,
    TileImages,
    audio_tokens,
    file_tokens,
    image_size,
    image_tokens,
)
from extproc.tokens import family_of

GPT_4O = TileImages(85, 170)
RULE = MediaRule(images=GPT_4O, audio_per_s=10, per_page=2_000)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(64)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(40)


def jpeg(width: int, height: int, before: int = 0, frame: int = 0xC0) -> bytes:
    """A JPEG with `before` bytes of metadata ahead of its frame header."""
    segments = b""
    while before > 0:
        size = min(before, 65_000)
        segments += b"\xff\xe1" + struct.pack(">H", size + 2) + bytes(size)
        before -= size
    table = b"\xff\xc4" + struct.pack(">H", 6) + bytes(4)
    head = bytes([0xFF, frame]) + struct.pack(">HBHH", 17, 8, height, width) + bytes(12)
    return b"\xff\xd8" + segments + table + head + bytes(50)


def webp_lossy(width: int, height: int) -> bytes:
    chunk = (
        b"VP8 " + struct.pack("<I", 30) + b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(20)
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_lossless(width: int, height: int) -> bytes:
    chunk = b"VP8L" + struct.pack("<IBI", 30, 0x2F, (width - 1) | (height - 1) << 14) + bytes(30)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_extended(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + size + bytes(20)


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1024, 768), (4032, 3024), (16_383, 16_383)])
@pytest.mark.parametrize("make", [png, gif, jpeg, webp_lossy, webp_lossless, webp_extended])
def test_size_is_read_from_the_header(make: object, size: tuple[int, int]) -> None:
    assert image_size(Base64(b64(make(*size)))) == size  # type: ignore[operator]


@pytest.mark.parametrize("before", [0, 1, 2, 20, 65_000, 200_001])
@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2, 0xCF])
def test_size_of_a_jpeg_is_found_behind_its_metadata(before: int, frame: int) -> None:
    assert image_size(Base64(b64(jpeg(1_200, 630, before, frame)))) == (1_200, 630)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBPVP8L", b"\xff\xd8\xff"]),
)
def test_no_data_raises(data: bytes, start: bytes) -> None:
    size = image_size(Base64(b64(start + data)))
    assert size is None or min(size) > 0
    assert image_tokens({"url": "data:image/png;base64," + b64(start + data)}, RULE) >= 85


@given(st.binary(max_size=100), st.integers(0, 120), st.integers(0, 40), st.text(max_size=5))
def test_any_part_of_base64_is_what_decoding_it_all_gives(data: bytes, start: int, count: int, prefix: str) -> None:
    assert Base64(prefix + b64(data), len(prefix)).at(start, count) == data[start : start + count]


@pytest.mark.parametrize(
    "url", [None, 5, "", "https://example.test/a.png", "data:image/png,abc", "data:image/png;base64", "data:;base64,é"]
)
def test_an_image_of_unknown_size_is_held_at_the_most_it_can_cost(url: object) -> None:
    assert image_tokens({"url": url}, RULE) == 85 + 8 * 170
    assert image_tokens({"url": url, "detail": "low"}, RULE) == 85
    assert image_tokens(url, RULE) == 85 + 8 * 170


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [
        # OpenAI's examples: 1024 x 1024 -> 768 x 768, 4 tiles; 2048 x 4096 -> 768 x 1536, 6 tiles; 4096 x 8192 low
        ((1_024, 1_024), "high", 765),
        ((2_048, 4_096), "high", 1_105),
        ((4_096, 8_192), "low", 85),
        ((1_024, 1_024), "auto", 765),
        ((512, 512), "high", 255),  # never scaled up
        ((10_000, 1), "high", 85 + 4 * 170),
    ],
)
def test_openai_tiles(size: tuple[int, int], detail: str, tokens: int) -> None:
    url = "data:image/png;base64," + b64(png(*size))
    assert image_tokens({"url": url, "detail": detail}, RULE) == tokens


def test_openai_patches() -> None:
    # OpenAI's example: 1024 x 1024 is 32 x 32 patches, within gpt-4.1-mini's 1,536: x 1.62
    assert PatchImages(1.62, 1_536, 1_536).tokens((1_024, 1_024), "high") == 1_659
    assert PatchImages(1.62, 1_536, 1_536).tokens((9_000, 9_000), "auto") == 2_489
    assert PatchImages(1.0, 2_500, 10_000).tokens((9_000, 9_000), "high") == 2_500
    assert PatchImages(1.0, 2_500, 10_000).tokens((9_000, 9_000), None) == 10_000
    assert PatchImages(1.0, 2_500, 10_000).tokens((33, 32), "low") == 2
    assert PatchImages(1.0, 2_500, 10_000).tokens(None, "low") == 256


def test_anthropic_area() -> None:
    # Anthropic's examples: 200 x 200 about 54, 1000 x 1000 about 1,334, 1092 x 1092 about 1,590
    rule = AreaImages(1_600)
    assert [rule.tokens(size, None) for size in ((200, 200), (1_000, 1_000), (1_092, 1_092))] == [54, 1_334, 1_590]
    assert rule.tokens((4_000, 4_000), None) == rule.tokens(None, None) == 1_600


def test_google_tiles() -> None:
    rule = GoogleTiles()
    assert rule.tokens((384, 384), None) == 258
    assert rule.tokens((385, 300), None) == 258
    assert rule.tokens((1_536, 768), None) == 2 * 258
    assert rule.tokens((6_144, 6_144), None) == rule.tokens(None, None) == 16 * 258
    assert FlatImages(1_120).tokens((10, 10), None) == FlatImages(1_120).tokens(None, "low") == 1_120


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gpt-4o", TileImages(85, 170)),
        ("gpt-4o-2024-11-20", TileImages(85, 170)),
        ("gpt-4o-mini-2024-07-18", TileImages(2_833, 5_667)),
        ("openai/gpt-4o-mini", TileImages(2_833, 5_667)),
        ("gpt-4.1", TileImages(85, 170)),
        ("gpt-4.1-mini", PatchImages(1.62, 1_536, 1_536)),
        ("gpt-4.1-nano", PatchImages(2.46, 1_536, 1_536)),
        ("o3", TileImages(75, 150)),
        ("o4-mini", PatchImages(1.72, 1_536, 1_536)),
        ("gpt-5", TileImages(70, 140)),
        ("gpt-5-2025-08-07", TileImages(70, 140)),
        ("gpt-5.1", TileImages(70, 140)),
        ("gpt-5-mini", PatchImages(1.62, 1_536, 1_536)),
        ("gpt-5.4", PatchImages(1.2, 2_500, 2_500)),
        ("gpt-5.4-nano", PatchImages(2.46, 1_536, 1_536)),
        ("gpt-5.5-2026-04-23", PatchImages(1.2, 2_500, 10_000)),
        ("gpt-6-sol", PatchImages(1.2, 2_500, 12_000)),
        ("claude-haiku-4-5", AreaImages(1_600)),
        ("claude-opus-5-5", AreaImages(4_784)),
        ("gemini-2.5-flash", GoogleTiles()),
        ("gemini-3.8-flash", FlatImages(1_120)),
    ],
)
def test_which_rule_a_model_has(name: str, rule: object) -> None:
    assert family_of("openai", name).media.images == rule


def wav(seconds: int, per_s: int) -> bytes:
    head = (
        b"RIFF"
        + struct.pack("<I", 36 + seconds * per_s)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8_000, per_s, 2, 16)
    )
    return head + b"data" + struct.pack("<I", seconds * per_s) + bytes(seconds * per_s)


def test_audio_is_counted_by_its_duration() -> None:
    assert audio_tokens({"data": b64(wav(10, 16_000)), "format": "wav"}, RULE) in (100, 101)
    assert audio_tokens({"data": b64(bytes(80_000)), "format": "mp3"}, RULE) in (100, 101)
    assert audio_tokens({"data": b64(wav(1, 0)), "format": "wav"}, RULE) < 10
    for unknown in (None, {}, {"data": 5}, "x", []):
        assert audio_tokens(unknown, RULE) == 600


def test_files_are_counted_by_their_size() -> None:
    assert file_tokens({"file_data": "data:application/pdf;base64," + b64(bytes(120_000))}, RULE) == 3 * 2_000
    assert file_tokens({"file_data": b64(bytes(120_000))}, RULE) == 3 * 2_000
    assert file_tokens({"file_data": "data:text/plain;base64," + b64(b"word " * 800)}, RULE) == pytest.approx(
        1_000, abs=2
    )
    for unknown in (None, {}, {"file_id": "file-1"}, "x", {"file_data": 5}):
        assert file_tokens(unknown, RULE) == 10 * 2_000

"""Tokens of what is not text in a request: images, audio, files.

In: a content part of the decoded request and how the model's family counts it. Out: a number of input tokens. Sizes are
read from the first bytes of inline base64 data; nothing is fetched and nothing large is decoded, so what lies behind a
URL or a file id is taken at its family's documented upper bound. Called by `extproc.tokens` only.
"""

import base64
import binascii
import math

import msgspec

Size = tuple[int, int]

MAX_JPEG_SEGMENTS = 64  # headers before the frame: real files have fewer than ten
BYTES_PER_PDF_PAGE = 50_000  # office documents: 20-80 kB a page; only page count tells, and it is compressed
UNKNOWN_FILE_PAGES = 10  # a file behind an id or a URL
BYTES_PER_TEXT_TOKEN = 4
COMPRESSED_AUDIO_BYTES_PER_S = 8_000  # 64 kbit/s: low for MP3, so seconds come out high
UNKNOWN_AUDIO_S = 60
MAX_DATA_URL_HEAD = 200


class Base64(msgspec.Struct, frozen=True):
    """Base64 inside a longer text, never copied or decoded as a whole: images are megabytes, headers are bytes."""

    text: str
    origin: int = 0  # where in `text` the base64 begins

    @property
    def decoded_bytes(self) -> int:
        """Size of the data, up to two bytes of padding more."""
        return (len(self.text) - self.origin) * 3 // 4

    def at(self, start: int, count: int) -> bytes:
        """Up to `count` bytes of the data at offset `start`; b"" beyond its end or where it is not base64."""
        first, end = start // 3, (start + count + 2) // 3
        chars = self.text[self.origin + first * 4 : self.origin + end * 4]
        try:
            decoded = base64.b64decode(chars[: len(chars) // 4 * 4], validate=True)
        except (binascii.Error, ValueError):  # ValueError: a character that is not ASCII
            return b""
        return decoded[start - first * 3 :][:count]


class TileImages(msgspec.Struct, frozen=True):
    """OpenAI's older rule: fit into 2048 x 2048, shrink the short side to 768, count 512-pixel tiles; `low` is flat.

    Source: platform.openai.com/docs/guides/images-vision, "Calculating costs".
    """

    base: int
    per_tile: int

    def tokens(self, size: Size | None, detail: object) -> int:
        """Tokens of one image. `detail`: low, else high (auto is taken as high). Size unknown: 8 tiles, the most."""
        if detail == "low":
            return self.base
        return self.base + self.per_tile * (8 if size is None else self._tiles(size))

    @staticmethod
    def _tiles(size: Size) -> int:
        fit = min(1.0, 2048 / max(size))
        width, height = size[0] * fit, size[1] * fit
        shrink = min(1.0, 768 / min(width, height))
        return math.ceil(round(width * shrink, 3) / 512) * math.ceil(round(height * shrink, 3) / 512)


class PatchImages(msgspec.Struct, frozen=True):
    """OpenAI's newer rule: 32-pixel patches up to a cap, times a factor of the model. Source: as for TileImages."""

    factor: float
    max_patches: int  # detail high; the whole image is scaled down to fit
    max_auto_patches: int

    def tokens(self, size: Size | None, detail: object) -> int:
        """Tokens of one image. `low` is a 512-pixel version of it. Size unknown: the cap."""
        cap = 256 if detail == "low" else self.max_patches if detail == "high" else self.max_auto_patches
        patches = cap if size is None else math.ceil(size[0] / 32) * math.ceil(size[1] / 32)
        return math.ceil(min(patches, cap) * self.factor)


class AreaImages(msgspec.Struct, frozen=True):
    """Anthropic's rule: width x height / 750, scaled down to a cap. Source: platform.claude.com, "Vision"."""

    max_tokens: int

    def tokens(self, size: Size | None, detail: object) -> int:  # noqa: ARG002 - one call for all rules
        """Tokens of one image. Size unknown: the cap. `detail` has no meaning here."""
        return self.max_tokens if size is None else min(self.max_tokens, math.ceil(size[0] * size[1] / 750))


class GoogleTiles(msgspec.Struct, frozen=True):
    """Gemini 2's rule: 258 up to 384 x 384, else 258 per 768-pixel tile of at most 3072 x 3072.

    Source: ai.google.dev/gemini-api/docs/tokens and /image-understanding.
    """

    def tokens(self, size: Size | None, detail: object) -> int:  # noqa: ARG002
        """Tokens of one image. Size unknown: 16 tiles, the most."""
        if size is None:
            return 258 * 16
        if max(size) <= 384:
            return 258
        fit = min(1.0, 3072 / max(size))
        return 258 * math.ceil(round(size[0] * fit, 3) / 768) * math.ceil(round(size[1] * fit, 3) / 768)


class FlatImages(msgspec.Struct, frozen=True):
    """Gemini 3 spends one budget per image of any size. Source: ai.google.dev/gemini-api/docs/media-resolution."""

    per_image: int

    def tokens(self, size: Size | None, detail: object) -> int:  # noqa: ARG002
        """Tokens of one image."""
        return self.per_image


ImageRule = TileImages | PatchImages | AreaImages | GoogleTiles | FlatImages


class MediaRule(msgspec.Struct, frozen=True):
    """How one family counts media."""

    images: ImageRule
    audio_per_s: int
    per_page: int  # of a PDF: its text and its picture


def image_tokens(image: object, rule: MediaRule) -> int:
    """Tokens of an `image_url` part's value, `{"url", "detail"}` or a bare URL. Never raises."""
    url, detail = image, None
    if isinstance(image, dict):
        url, detail = image.get("url"), image.get("detail")
    data = _inline(url)
    return rule.images.tokens(None if data is None else image_size(data), detail)


def audio_tokens(audio: object, rule: MediaRule) -> int:
    """Tokens of an `input_audio` part's value, `{"data": base64, "format"}`: by duration. Never raises."""
    text = audio.get("data") if isinstance(audio, dict) else None
    if not isinstance(text, str):
        return UNKNOWN_AUDIO_S * rule.audio_per_s
    data = Base64(text)
    header = data.at(0, 32)
    per_s = COMPRESSED_AUDIO_BYTES_PER_S
    if header[:4] == b"RIFF" and header[8:12] == b"WAVE" and len(header) == 32:
        per_s = max(1_000, int.from_bytes(header[28:32], "little"))
    return math.ceil(data.decoded_bytes / per_s * rule.audio_per_s)


def file_tokens(file: object, rule: MediaRule) -> int:
    """Tokens of a `file` part's value, `{"file_data": data URL, "filename"}` or `{"file_id"}`. Never raises."""
    text = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(text, str):
        return UNKNOWN_FILE_PAGES * rule.per_page
    data = _inline(text) or Base64(text)
    if text.startswith("data:text/"):
        return math.ceil(data.decoded_bytes / BYTES_PER_TEXT_TOKEN)
    return math.ceil(data.decoded_bytes / BYTES_PER_PDF_PAGE) * rule.per_page


def image_size(data: Base64) -> Size | None:
    """Width and height in pixels of PNG, JPEG, WebP or GIF data; None where they cannot be read."""
    head = data.at(0, 32)
    size: Size | None = None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    elif head.startswith((b"GIF87a", b"GIF89a")):
        size = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _webp_size(head)
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    return size if size and size[0] > 0 and size[1] > 0 else None


def _webp_size(head: bytes) -> Size | None:
    """From the first chunk: lossy, lossless or extended. Source: RFC 9649, sections 2.5 to 2.7."""
    kind = head[12:16]
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _jpeg_size(data: Base64) -> Size | None:
    """From the first start-of-frame segment, skipping over the segments before it. Source: ITU T.81, B.1.1.4, B.2.2."""
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        segment = data.at(at, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        if 0xC0 <= segment[1] <= 0xCF and segment[1] not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")
        at += 2 + int.from_bytes(segment[2:4], "big")
    return None


def _inline(url: object) -> Base64 | None:
    """The data of a `data:…;base64,…` URL; None for anything else."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    comma = url.find(",", 0, MAX_DATA_URL_HEAD)
    return Base64(url, comma + 1) if url.endswith(";base64", 0, max(0, comma)) else None

"""`/ui`: the dashboard, a static page that talks to the API like any other client.

In: requests for the page and its assets, which are part of the package. Out: files, with a policy that lets the page
load nothing from anywhere else and run no script but its own. The page holds no data and no key; whoever opens it gives
a key, which stays in that browser tab.
"""

from importlib import resources
from typing import Final

from aiohttp import web

from extproc.errors import NotFound

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Ui:
    """The files, read once."""

    def __init__(self) -> None:
        folder = resources.files("control") / "dashboard"
        self._files = {
            file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES
        }

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served here."""
        return [web.get("/ui", self.to_page), web.get("/ui/", self.page), web.get("/ui/{name}", self.asset)]

    async def to_page(self, _: web.Request) -> web.Response:
        """The slash makes the page's relative addresses right."""
        return web.Response(status=308, headers={"Location": "/ui/"})

    async def page(self, _: web.Request) -> web.Response:
        """The page."""
        return self._file("index.html")

    async def asset(self, request: web.Request) -> web.Response:
        """One file."""
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        body = self._files.get(name)
        if body is None:
            raise NotFound(f"There is no /ui/{name} here.")
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

"""The dashboard in a real browser, with traffic through a real Envoy."""

import shutil
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.envoy.harness import ADMIN_KEY, TEAM_KEY, Config, Gateway, Simulator, ask, marker

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["teams"].append({"id": "team-quiet", "keys": ["sk-quiet"]})
    return config


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """A page in a browser of its own; nothing may go wrong in it, and it may load nothing from elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    page.on("request", lambda sent: None if sent.url.startswith(gateway.url) else wrong.append(sent.url))
    page.goto(f"{gateway.url}/ui")
    yield page
    context.close()
    assert wrong == []


def send_key(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.keyboard.press("Enter")


def sign_in(page: Page, key: str) -> None:
    send_key(page, key)
    expect(page.locator("#page")).to_be_visible()


def test_traffic_is_seen(page: Page, gateway: Gateway, primary: Simulator) -> None:
    gateway.client().chat.completions.create(**ask("Hello"))
    primary.faults({"status": 503})
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("Hello", "gpt-ha"))
    gateway.row(raw.headers["x-gateway-request-id"])
    sign_in(page, ADMIN_KEY)
    page.get_by_label("Time", exact=True).select_option("1h")
    expect(page.locator("#usage-chart rect").first).to_be_visible()
    expect(page.locator("#budgets-body")).to_contain_text("team-a")
    expect(page.locator("#providers-body")).to_contain_text("anthropic-b")
    expect(page.locator("#routing-body")).to_contain_text("pinned")
    page.get_by_label("Status").select_option("fallback")
    page.locator("#requests-body button").first.click()
    detail = page.get_by_role("dialog")
    expect(detail).to_contain_text(raw.headers["x-gateway-request-id"])
    expect(detail).to_contain_text("1. openai")
    expect(detail).to_contain_text("2. anthropic-b")
    expect(detail).to_contain_text("reserve")
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()


def test_a_team_sees_itself_alone(page: Page, gateway: Gateway) -> None:
    other = gateway.client("sk-other").chat.completions.with_raw_response.create(**ask("Hello"))
    own = gateway.client().chat.completions.with_raw_response.create(**ask("Hello"))
    for raw in (other, own):
        gateway.row(raw.headers["x-gateway-request-id"])
    sign_in(page, TEAM_KEY)
    expect(page.locator("#requests-body table")).to_contain_text("team-a")
    expect(page.locator("#team")).to_be_hidden()
    for panel in ("#requests-body", "#budgets-body"):
        expect(page.locator(panel)).not_to_contain_text("team-b")


def test_a_wrong_key_says_so_and_is_forgotten(page: Page) -> None:
    send_key(page, "sk-wrong")
    expect(page.locator("#refused")).to_contain_text("not known")
    assert page.evaluate("sessionStorage.length") == 0


def test_while_control_is_away_the_page_says_so_and_goes_on_when_it_is_back(page: Page, gateway: Gateway) -> None:
    """While signing in, and later."""
    supervisor = psutil.Process(gateway.process.pid)
    for step in (lambda: send_key(page, ADMIN_KEY), lambda: None):
        (control,) = gateway.processes("gateway control")
        supervisor.suspend()
        try:
            control.kill()
            step()
            expect(page.locator("#trouble")).to_be_visible(timeout=20_000)
            expect(page.locator("#trouble")).to_contain_text("control process")
        finally:
            supervisor.resume()
        expect(page.locator("#trouble")).to_be_hidden(timeout=20_000)
        expect(page.locator("#page")).to_be_visible()
        expect(page.locator("#budgets-body")).not_to_be_empty()


def test_the_key_is_in_no_address_and_gone_after_signing_out(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    sign_in(page, ADMIN_KEY)
    expect(page.locator("#requests-body")).not_to_be_empty()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#login")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.locator("#requests-body").inner_text() == ""
    assert not [url for url in asked if ADMIN_KEY in url]


def test_what_a_client_sends_is_text_and_never_markup(page: Page, gateway: Gateway) -> None:
    with pytest.raises(Exception, match="does not exist"):
        gateway.client().chat.completions.create(**ask("Hello", "<img src=x onerror=document.title='bad'>"))
    sign_in(page, ADMIN_KEY)
    expect(page.locator("#requests-body table")).to_be_visible()
    assert page.locator("#requests-body img").count() == 0
    assert page.title() == "LLM gateway"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(page: Page, gateway: Gateway, scheme: Any) -> None:
    gateway.client().chat.completions.create(**ask(marker(chunks=2)))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(page, ADMIN_KEY)
    expect(page.locator("#requests-body table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    newest = page.locator("#usage-chart rect").last.bounding_box()
    assert newest is not None
    assert newest["x"] + newest["width"] <= 390


def test_everything_is_reached_by_keyboard(page: Page, gateway: Gateway) -> None:
    gateway.client().chat.completions.create(**ask("Hello"))
    sign_in(page, ADMIN_KEY)
    expect(page.locator("#requests-body button").first).to_be_visible()
    page.get_by_label("live").uncheck()
    page.locator("#requests-body button").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Enter")  # the dialog's first button, which has the focus, closes it
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_nothing_there_yet_says_what_to_do(page: Page, gateway: Gateway) -> None:
    sign_in(page, "sk-quiet")
    expect(page.locator("#usage-chart")).to_contain_text("/v1/chat/completions")
    expect(page.locator("#requests-body")).to_contain_text("No requests here yet")

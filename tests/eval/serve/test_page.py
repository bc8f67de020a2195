"""The page of the server in a real browser: Chromium, without a window."""

import contextlib
import shutil

import httpx
import pytest

from tests.eval.serve.conftest import listening, service_of

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromium and chromedriver")


@contextlib.contextmanager
def browsing(width=1200, height=800):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


def find(browser, name):
    return browser.find_element("id", name)


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, 0.05).until(lambda _: condition())


def ready(browser):
    return find(browser, "status").text == "ready"


def put(browser, **values):
    """Set fields of the sampling form."""
    script = """const box = document.getElementById(arguments[0]); box.value = arguments[1];
        box.dispatchEvent(new Event("input", {bubbles: true}));
        box.dispatchEvent(new Event("change", {bubbles: true}));"""
    for name, value in values.items():
        browser.execute_script(script, name, str(value))


def say(browser, text, key="\n"):
    find(browser, "message").send_keys(text + key)


def articles(browser):
    return [
        box.find_element("css selector", "div").get_attribute("textContent")
        for box in browser.find_elements("css selector", "#log article")
    ]


def test_a_conversation_in_a_browser(folder, browser):
    with listening(service_of(folder, chats=True)) as (host, port):
        browser.get(f"http://{host}:{port}/")
        wait_for(browser, lambda: ready(browser))
        put(browser, seed=7, max_tokens=20, temperature=1.0, top_p=1)
        say(browser, "hello")
        wait_for(browser, lambda: len(articles(browser)) == 2 and ready(browser))
        body = {"model": "toy", "seed": 7, "max_tokens": 20, "temperature": 1.0, "top_p": 1}
        body["messages"] = [{"role": "user", "content": "hello"}]
        url = f"http://{host}:{port}/v1/chat/completions"
        answer = httpx.post(url, json=body, timeout=60).json()
        assert articles(browser) == ["hello", answer["choices"][0]["message"]["content"]]
        # The state has been looked into, at every token.
        assert find(browser, "reading").text.startswith("Token ")
        browser.execute_script("document.querySelector('details').open = true")
        wait_for(browser, lambda: browser.find_elements("css selector", "#table td"))
        # A second turn sends the first one along; Retry draws the last reply again.
        say(browser, "and then?")
        wait_for(browser, lambda: len(articles(browser)) == 4 and ready(browser))
        again = articles(browser)[-1]
        find(browser, "again").click()
        wait_for(browser, lambda: len(articles(browser)) == 4 and ready(browser))
        assert articles(browser)[-1] == again  # the seed is set
        find(browser, "fresh").click()
        assert articles(browser) == []
        # What the server refuses is said, and the next message is answered.
        put(browser, max_tokens=10**9)
        say(browser, "hello")
        wait_for(browser, lambda: find(browser, "error").is_displayed() and ready(browser))
        assert "max_tokens" in find(browser, "error").text
        wrong = [x for x in browser.get_log("browser") if "400" not in x["message"]]
        assert not wrong


def test_a_reply_is_stopped_by_the_keyboard(folder, browser):
    from selenium.webdriver.common.keys import Keys

    service = service_of(folder)
    with listening(service) as (host, port):
        browser.get(f"http://{host}:{port}/")
        wait_for(browser, lambda: ready(browser))
        put(browser, mode="text", max_tokens=150_000)
        say(browser, "once")
        wait_for(browser, lambda: len("".join(articles(browser))) > 20)
        webdriver.ActionChains(browser).send_keys(Keys.ESCAPE).perform()
        wait_for(browser, lambda: ready(browser))
        wait_for(browser, lambda: service.engine.running == 0)  # the slot is free
        assert "stopped" in find(browser, "log").text


def test_a_phone_a_screen_reader_and_the_dark(folder):
    with listening(service_of(folder)) as (host, port), browsing(390, 800) as browser:
        browser.get(f"http://{host}:{port}/")
        wait_for(browser, lambda: ready(browser))
        find(browser, "open-settings").click()
        find(browser, "open-inside").click()
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) <= 0
        for box in browser.find_elements("css selector", "button, input, select, textarea, canvas"):
            if box.is_displayed():
                assert box.accessible_name, box.get_attribute("id")
        shade = "return getComputedStyle(document.body).backgroundColor"
        light = browser.execute_script(shade)
        media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert browser.execute_script(shade) != light


def test_a_token_is_asked_for_and_used(folder, browser):
    with listening(service_of(folder), token="secret") as (host, port):
        browser.get(f"http://{host}:{port}/")
        wait_for(browser, lambda: "access token" in find(browser, "error").text)
        put(browser, token="secret")
        wait_for(browser, lambda: ready(browser))
        assert not find(browser, "error").is_displayed()

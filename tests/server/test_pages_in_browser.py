"""The pages in a real browser: nothing in the console, nothing wider than a phone, no serious finding of axe."""

import json
import time

import pytest

from browser import findings
from gateway import manifest_of, tensor_file


@pytest.mark.parametrize("size", ["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_prompts(page_gateway, visit, size, scheme):
    gateway = page_gateway()
    gateway.add("movie", "spam", "names")
    with visit(gateway, size=size, color_scheme=scheme) as page:
        assert findings(page) == []
        page.fill("#q", "spa")
        page.wait_for_selector("text=movie@1", state="detached")
        assert page.url.endswith("?q=spa")
        assert page.is_visible("text=spam@1")


def test_one_prompt(page_gateway, visit):
    gateway = page_gateway()
    gateway.add("movie", "movie")
    with visit(gateway, "/p/movie@1", size="phone", color_scheme="dark") as page:
        assert findings(page) == []
        page.fill("#alias", "prod")
        page.click("text=Move")
        page.wait_for_selector("text=movie@prod is now movie@1")
        page.click("#use-cli + button")
        page.wait_for_selector("#use-cli + button:not(:text-is('Copy'))")
    assert gateway.store.aliases("movie") == {"prod": 1}


def test_playground(page_gateway, visit):
    gateway = page_gateway(serves_base=True)
    gateway.add("movie", "summary", "pair")
    with visit(gateway, "/try?prompt=movie", size="phone") as page:
        page.fill("#text", "a film")
        page.wait_for_selector(".says:text-is('positive')")
        page.check("input[value=summary]")
        page.wait_for_selector("#written-1:text-is('a film')")
        page.check("input[value=tiny]")
        page.wait_for_selector("#answer-0:has-text('no prompt') .written:text-is('a film')")
        assert findings(page) == []
        page.fill("#text", "another film by far")
        page.wait_for_selector("#written-2:text-is('another film by far')")
        page.uncheck("[data-live-switch]")
        page.check("input[value=pair]")
        page.wait_for_selector("[name='field.a']")
        assert page.locator("#answers").count() == 1
        page.uncheck("input[value=pair]")
        page.wait_for_selector("#text")
        gateway.engine.delay_s = 0.2
        page.fill("#text", " ".join("x" * 100))
        page.click("text=Ask")
        page.wait_for_selector("#written-2:text('x x')")
        page.goto(f"{gateway.url}/")
        deadline = time.monotonic() + 3
        while gateway.engine.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not gateway.engine.running


def test_pages_work_without_a_script(page_gateway, visit):
    gateway = page_gateway()
    gateway.add("movie", "spam")
    with visit(gateway, java_script_enabled=False) as page:
        page.click("text=spam@1")
        page.click("text=Try it")
        page.check("input[value=movie]")
        page.fill("#text", "a film")
        page.click("text=Ask")
        assert page.locator(".says").all_text_contents() == ["positive", "yes"]
        assert page.locator("button[data-copy]:visible").count() == 0


def test_a_prompt_is_imported_from_its_files(page_gateway, visit, tmp_path):
    gateway = page_gateway()
    gateway.add("movie")
    manifest = manifest_of("movie").model_dump(mode="json")
    (tmp_path / "prompt.json").write_text(json.dumps({**manifest, "name": "film"}))
    (tmp_path / "prompt.safetensors").write_bytes(tensor_file())
    with visit(gateway) as page:
        page.set_input_files("#files", [tmp_path / "prompt.safetensors"])
        page.wait_for_selector("text=There is no prompt.json")
        assert findings(page) == []
        page.set_input_files("#files", [tmp_path / "prompt.json", tmp_path / "prompt.safetensors"])
        page.wait_for_url("**/p/film@1")
        assert page.inner_text("section:has-text('Calls')").split() == ["Calls", "0", "since", "the", "server", "began"]
    assert list(gateway.store.versions("film")) == [1]

"""The pages in a real browser: nothing in the console, nothing wider than a phone, no serious finding of axe."""

import pytest

from browser import findings


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

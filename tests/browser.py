"""What tests of pages in a browser share: a gateway whose address is known, and what axe finds on a page."""

from contextlib import contextmanager

import pytest

from gateway import Gateway, served
from overture.server.listen import bound_socket
from overture.server.security import Access

SIZES = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}


class PageGateway(Gateway):
    """A gateway on a port of its own, so that the origin of its pages is known."""

    def __init__(self, root, keys=(), **options):
        self.bound = bound_socket("127.0.0.1", 0)
        port = self.bound.getsockname()[1]
        super().__init__(root, access=Access(port=port, keys=keys), **options)
        self.url = f"http://127.0.0.1:{port}"

    @contextmanager
    def served(self):
        """Serve until the block ends; the address."""
        with served(self.app, read_timeout_s=8.0, bound=self.bound):
            yield self.url


def findings(page):
    """What axe finds on a page, the serious and the critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    violations = axe.Axe().run(page).response["violations"]
    return [
        (item["id"], [node["target"] for node in item["nodes"]])
        for item in violations
        if item["impact"] in ("serious", "critical")
    ]

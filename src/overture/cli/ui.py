"""``overture ui``: the pages of a server for this machine alone, in a browser."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from overture.cli.options import DriftOption, JsonOption, StoreOption
from overture.cli.out import remark, say
from overture.cli.serve import DTypeOption, ServerOptions, run_server
from overture.core.errors import ConfigError

_PORT = 8000


def command(
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help=f"The port; {_PORT} if not given, or any if that is taken."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="MODEL", help="The frozen model; that of most stored prompts if not given."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="Keys that other clients must send; see overture serve."),
    ] = None,
    is_shown: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    dtype: DTypeOption = "auto",
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Look at prompts, try them and compare them in a browser; the server listens to this machine only.

    The model without a prompt answers in the playground too. Ctrl-C stops it. See docs/serving.md.
    """
    options = ServerOptions(
        port=_free_port() if port is None else port,
        backbone=backbone,
        serves_base=True,
        key_file=key_file,
        dtype=dtype,
        store=store,
        allow_drift=allow_drift,
    )
    run_server(options, is_json, _show if is_shown else lambda page: None)


def _free_port() -> int:
    from overture.server.listen import bound_socket

    try:
        bound_socket("127.0.0.1", _PORT).close()
    except ConfigError:
        say(f"port {_PORT} is taken, so another one is used; --port chooses one")
        return 0
    return _PORT


def _show(page: str) -> None:
    """Open a page, where there is a screen; a browser in the terminal would take it away from the server."""
    has_screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if has_screen and webbrowser.open(page):
        remark("the page opens in the browser")
    else:
        say(f"open this in a browser: {page}")

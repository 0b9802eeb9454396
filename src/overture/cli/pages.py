"""The page of a run: written when the run has ended, and the last thing that its command prints."""

from pathlib import Path

from overture.cli.options import store_flag, store_root
from overture.cli.out import console, say
from overture.core.errors import OvertureError


def written_page(run: str, store: Path | None) -> str:
    """The path of a finished run's page, which is written if there is none; empty where it could not be written.

    Args:
        run: the run's name.
        store: as the user gave it.
    """
    from overture.store.runs import PAGE, Run

    try:
        opened = Run.open(store_root(store) / "runs", run)
        page = opened.folder / PAGE
        # The picture is written last: without it the writing was cut off.
        if page.is_file() and page.with_suffix(".png").is_file():
            return str(page)
        # Charts take a second to import.
        from overture.jobs.run.pages import write_page

        return str(write_page(opened, store_flag(store)))
    except (OvertureError, OSError) as error:
        say(f"note: the page of the run could not be written: {error}")
        return ""


def show_page(page: str) -> None:
    """Print where the page is."""
    if page:
        console().print(f"\nThe page: {page}", soft_wrap=True)

"""``python -m overture.harness``: the harness's own command line, with the model `overture` known to it."""

import sys

from overture.core.errors import OvertureError


def main() -> int:
    """Run the harness's command line; the exit code."""
    try:
        import overture.harness.model  # noqa: F401  its import registers the model

        _run()
    except OvertureError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run() -> None:
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())

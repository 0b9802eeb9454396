"""``python -m overture``: the command line, where its script is not on the path."""

from overture.cli.app import main

if __name__ == "__main__":
    main()

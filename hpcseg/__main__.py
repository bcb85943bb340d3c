"""The `hpcseg` command and `python -m hpcseg`."""

import sys


def main() -> None:
    """`hpcseg.cli.main`; Ctrl-C while it is loaded, where nothing has begun, ends without a traceback."""
    try:
        from hpcseg.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

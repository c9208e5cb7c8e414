"""Console entry point: `medcli` and `python -m medcli`."""

import os
import signal


def _leave(signum: int, frame: object) -> None:
    """End the process at once: nothing has been written yet, and an import that is cut off prints a traceback."""
    try:
        os.write(2, b"error: interrupted\nhint: run the same command again\n")
    finally:
        os._exit(130)


def run() -> None:
    """Import the program and run it."""
    signal.signal(signal.SIGINT, _leave)
    from medcli.cli.app import run as run_program

    run_program()


if __name__ == "__main__":
    run()

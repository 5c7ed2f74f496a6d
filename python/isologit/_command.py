"""The isologit command: hands over to the executable that is installed in the package."""

import os
import sys
from pathlib import Path


def main() -> None:
    path = os.fspath(Path(__file__).with_name("bin") / "isologit")
    try:
        os.execv(path, [sys.argv[0], *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"isologit: {path} is missing; install the package again: pip install --force-reinstall isologit")

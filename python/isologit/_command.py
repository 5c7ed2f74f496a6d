"""The isologit command: hands over to the executable that is installed in the package, but for verbs in Python."""

import os
import sys
from pathlib import Path


def main() -> None:
    verb, arguments = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if verb == "audit":
        try:
            from isologit.audit.__main__ import main as audit
        except ModuleNotFoundError as error:
            sys.exit(f"isologit: audit needs {error.name}: pip install torch transformers matplotlib")
        audit(arguments)
    elif verb == "capture":
        capture(arguments)
    else:
        executable()


def executable() -> None:
    path = os.fspath(Path(__file__).with_name("bin") / "isologit")
    try:
        os.execv(path, [sys.argv[0], *sys.argv[1:]])
    except FileNotFoundError:
        sys.exit(f"isologit: {path} is missing; install the package again: pip install --force-reinstall isologit")


def capture(arguments: list[str]) -> None:
    """Runs a command in whose vLLM engines the plugin writes what passes the head."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.exit("usage: isologit capture FILE -- COMMAND...\n\nRuns COMMAND; vLLM engines in it write captured rows.")
    file, command = Path(arguments[0]).absolute(), arguments[2:]
    said = f"isologit: vLLM engines of {command[0]} append the rows at their head to {file}"
    print(said, file=sys.stderr, flush=True)
    try:
        os.execvpe(command[0], command, os.environ | {"ISOLOGIT_CAPTURE": os.fspath(file)})
    except OSError as error:
        sys.exit(f"isologit: {command[0]} cannot be run: {error.strerror}; expected a command after --")

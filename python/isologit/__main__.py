"""python -m isologit: the command, and `integrations`, which asks this Python what it has."""

import sys

from isologit import _command


def print_integrations() -> None:
    from isologit.integrations import status

    rows = [("package", "installed", "tested", "in force", "")]
    for row in status():
        rows.append((row.name, row.version or "-", row.tested[:12], "yes" if row.in_force else "no", row.why_not))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip())


if sys.argv[1:] == ["integrations"]:
    print_integrations()
else:
    _command.main()

#!/usr/bin/env python3
"""usage: ctest_totals.py REPORT

Reads a report of `ctest --output-junit`. Says of each test that was skipped why, repeats the lines
that begin with "not run:", and ends with one line: tests passed, failed and skipped.
"""

import sys
import xml.etree.ElementTree as ElementTree


def reason(output: str) -> str:
    """What a skipped test printed: after GoogleTest's "file:line: Skipped", or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for i, line in enumerate(lines[:-1]):
        if line.endswith(": Skipped"):
            return lines[i + 1]
    return lines[-1] if lines else "no reason given"


def was_skipped(case: ElementTree.Element) -> bool:
    """Not so a test whose program is missing, which has the same element but is a failure."""
    skipped = case.find("skipped")
    return case.get("status") == "disabled" or (skipped is not None and skipped.get("message", "").startswith("SKIP_"))


def main() -> None:
    passed = failed = skipped = 0
    for case in ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        output = case.findtext("system-out") or ""
        if case.get("status") == "run":
            passed += 1
            for line in output.splitlines():
                if line.startswith("not run:"):
                    print(f"{case.get('name')}: {line}")
        elif was_skipped(case):
            skipped += 1
            print(f"skipped: {case.get('name')}: {reason(output)}")
        else:
            failed += 1
    print(passed, failed, skipped)


main()

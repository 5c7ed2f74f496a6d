#!/usr/bin/env python3
"""usage: files_and_signals.py COMMAND [--page FILE.md]

Attacks on the files and the process of the isologit command: destinations that do not do, standard streams that take
nothing, limits, signals, and files that change while they are read. Each case says how the run must end and what may
have changed on the disk, which is compared whole. Prints a table, and the cases that ended otherwise; with --page also
holds the table that a page shows to this one.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path

from campaign import LIMIT, Campaign, Place

VERBS = ("score", "sample", "logits")
ROOT = os.geteuid() == 0
CAP_CHOWN, CAP_DAC_OVERRIDE = 0, 1


def without(capability):
    """For the child: the superuser without one of its capabilities, which only matters for that."""
    return lambda: ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


# The kinds of attacks.


def destinations(campaign, place):
    out, model = place.out, place.model
    (out / "folder").mkdir()
    (out / "read-only").write_text("precious")
    (out / "read-only").chmod(0o444)
    os.mkfifo(out / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(out / "socket"))
    for name, target in {
        "loop": "loop",
        "null": "/dev/null",
        "to-input": "input",
        "to-config": "../model/config.json",
        "to-folder": "folder",
        "into-model": "../model/new.safetensors",
        "stdout": "/dev/stdout",
    }.items():
        (out / name).symlink_to(target)
    os.link(model / "head.safetensors", out / "hard-head")
    cases = [
        ("an empty name", "", 1, "names no file"),
        ("a folder", "folder", 1, "is a directory"),
        ("the folder itself", ".", 1, "names no file"),
        ("the folder above", "folder/..", 1, "names no file"),
        ("a new folder", "new/", 1, "names no file"),
        ("a name of 256 bytes", "n" * 256, 1, "File name too long"),
        ("a path of 5000 bytes", "folder/../" * 500 + "x", 1, "File name too long"),
        ("no folder", "nowhere/x", 1, "No such file or directory"),
        ("through a file", "read-only/x", 1, "Not a directory"),
        ("a pipe", "pipe", 1, "not a regular file"),
        ("a socket", "socket", 1, "not a regular file"),
        ("a device", "/dev/null", 1, "not a regular file"),
        ("a full device", "/dev/full", 1, "not a regular file"),
        ("a link to a device", "null", 1, "not a regular file"),
        ("standard output, a pipe", "/dev/stdout", 1, "not a regular file"),
        ("a link to standard output", "stdout", 1, "not a regular file"),
        ("standard error", "/proc/self/fd/2", 1, "not a regular file"),
        ("links in a circle", "loop", 1, "Too many levels of symbolic links"),
        ("a link to a folder", "to-folder", 1, "is a directory"),
        ("a read-only file", "read-only", 1, "is read-only"),
        ("the input", "input", 2, "is the input"),
        ("a link to the input", "to-input", 2, "is the input"),
        ("the input by another name", "hard-input", 2, "is the input"),
        ("the configuration", "../model/config.json", 2, "file of the model"),
        ("a link to the configuration", "to-config", 2, "file of the model"),
        ("the index", "../model/model.safetensors.index.json", 2, "file of the model"),
        ("the head's file", "../model/head.safetensors", 2, "file of the model"),
        ("the head's file by another name", "hard-head", 2, "file of the model"),
        ("another file of the model", "../model/body.safetensors", 2, "the model's folder"),
        ("what a link of the model leads to", "../blobs/body", 2, "the model's folder"),
        ("a new file of the model", "../model/model.safetensors", 2, "the model's folder"),
        ("a link into the model's folder", "into-model", 2, "the model's folder"),
    ]
    for verb in VERBS:
        computing = campaign.processor_time(campaign.run, place, campaign.arguments(place, verb, out / "x", many=True))
        (out / "x").unlink()
        (out / "input").symlink_to(place.many[verb])
        os.link(place.many[verb], out / "hard-input")
        for name, path, code, words in cases:
            run = campaign.arguments(place, verb, path, many=True)
            told = campaign.processor_time(
                campaign.case, "destinations", f"{verb}: {name}", code, words, place, run, cwd=out
            )
            if told > computing / 2:
                campaign.wrong.append(f"destinations: {verb}: {name}: told after {told:.2f} s of computing")
        # Standard output that goes to a file: the file would be lost.
        with (out / "printed").open("w") as printed:
            campaign.case(
                "destinations",
                f"{verb}: standard output, a file",
                1,
                "standard stream",
                place,
                campaign.arguments(place, verb, "/dev/stdout"),
                stdout=printed,
            )
        for name in ("printed", "input", "hard-input"):
            (out / name).unlink()
    if not ROOT:
        return campaign.skip("devices and owners: only the superuser can make them")
    os.mknod(out / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (out / "foreign").write_text("precious")
    (out / "foreign").chmod(0o666)
    os.chown(out / "foreign", 65534, 65534)
    for verb in VERBS:
        campaign.case(
            "destinations",
            f"{verb}: a device as root",
            1,
            "not a regular file",
            place,
            campaign.arguments(place, verb, out / "device"),
        )
        campaign.case(
            "destinations",
            f"{verb}: an owner that cannot be kept",
            1,
            "cannot be kept",
            place,
            campaign.arguments(place, verb, out / "foreign"),
            preexec_fn=without(CAP_CHOWN),
        )
        out.chmod(0o555)
        campaign.case(
            "destinations",
            f"{verb}: a folder without permission",
            1,
            "Permission denied",
            place,
            campaign.arguments(place, verb, out / "new"),
            preexec_fn=without(CAP_DAC_OVERRIDE),
        )
        out.chmod(0o755)


def replaced(campaign, place):
    out = place.out
    for verb in VERBS:
        campaign.run(place, campaign.arguments(place, verb, out / "plain"))
        wanted = (out / "plain").read_bytes()
        (out / "plain").unlink()

        def written(name, path, target, verb=verb, wanted=wanted, **more):
            """`path` is given, `target` is written."""
            label = f"{verb}: {name}"
            campaign.case("what is replaced", label, 0, "", place, campaign.arguments(place, verb, path), **more)
            if target.is_symlink() or target.read_bytes() != wanted:
                campaign.wrong.append(f"what is replaced: {label}: other bytes")

        written("nothing", out / "new", out / "new", changes={"out/new"})
        written("a name of 255 bytes", out / ("n" * 255), out / ("n" * 255), changes={"out/" + "n" * 255})
        for mode in (0o600, 0o640, 0o664, 0o200):
            (out / "new").write_text("old")
            (out / "new").chmod(mode)
            written(f"mode {mode:o}", out / "new", out / "new", changes={"out/new"})
            if stat.S_IMODE((out / "new").stat().st_mode) != mode:
                campaign.wrong.append(f"what is replaced: {verb}: mode {mode:o} was not kept")
        (out / "new").chmod(0o644)
        os.link(out / "new", out / "other")
        written("a file with two names", out / "new", out / "new", changes={"out/new"})
        (out / "link").symlink_to("new")
        (out / "chain").symlink_to(place.folder / "out" / "link")
        written("links", out / "chain", out / "new", changes={"out/new"})
        (out / "new").unlink()
        written("a link to nothing", out / "link", out / "new", changes={"out/new"})
        # What killed runs left goes, what others are writing or have named so stays.
        (out / ".isologit-1-0.tmp").write_text("left")
        (out / ".isologit-mine").write_text("foreign")
        with (out / ".isologit-2-0.tmp").open("w") as busy:
            fcntl.flock(busy, fcntl.LOCK_EX)
            written("what killed runs left", out / "new", out / "new", changes={"out/new", "out/.isologit-1-0.tmp"})
            busy_name = Path(busy.name)
        busy_name.unlink()
        if ROOT:
            os.chown(out / "new", 65534, 65533)
            written("an owner", out / "new", out / "new", changes={"out/new"})
            of = (out / "new").stat()
            if (of.st_uid, of.st_gid) != (65534, 65533):
                campaign.wrong.append(f"what is replaced: {verb}: the owner was not kept")
        for left in out.iterdir():
            left.unlink()


def standard_streams(campaign, place):
    def closed(*streams):
        return lambda: [os.close(stream) for stream in streams]

    def nobody_reads():
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(read)
        os.close(write)

    kind = "standard streams"
    (place.out / "old").write_text("precious")
    runs = [campaign.arguments(place, verb, place.out / name) for verb in VERBS for name in ("old", "new")]
    runs += [["info", str(place.model)], ["kernels", "--json"], ["--help"], ["--version"]]
    for run in runs:
        name = f"{run[0]} {'' if '--output' not in run else Path(run[run.index('--output') + 1]).name}"
        told = "cannot write to standard output"
        with open("/dev/full", "w") as full:
            campaign.case(kind, f"{name}: full", 1, f"{told}: No space left", place, run, stdout=full)
        campaign.case(
            kind, f"{name}: closed", 1, f"{told}: Bad file descriptor", place, run, prints=False, preexec_fn=closed(1)
        )
        campaign.case(
            kind, f"{name}: nobody reads", 1, f"{told}: Broken pipe", place, run, prints=False, preexec_fn=nobody_reads
        )
    for verb in VERBS:
        run = campaign.arguments(place, verb, place.out / "new")
        campaign.case(
            kind,
            f"{verb}: standard input and error closed",
            0,
            "",
            place,
            run,
            changes={"out/new"},
            preexec_fn=closed(0, 2),
        )
        (place.out / "new").unlink()


def limits(campaign, place):
    def file_size(most):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    kind = "limits on the size of files"
    (place.out / "old").write_text("precious")
    for verb in VERBS:
        for name in ("old", "new"):
            for most in (0, 100, 350):
                campaign.case(
                    kind,
                    f"{verb} {name}: {most} bytes",
                    1,
                    "File too large",
                    place,
                    campaign.arguments(place, verb, place.out / name),
                    preexec_fn=file_size(most),
                )
        # The file fits, and what is printed to another one does not.
        with (place.folder / "printed").open("w") as printed:
            run = ["kernels", "--json"]
            campaign.case(
                kind,
                f"{verb}: standard output",
                1,
                "cannot write to standard output: File too large",
                place,
                run,
                stdout=printed,
                preexec_fn=file_size(0),
            )
        (place.folder / "printed").unlink()


def wait_for_work(process, out):
    """Until the run has begun its output, so has read its input and computes."""
    begin = time.monotonic()
    while not any(path.name.startswith(".isologit-") for path in out.iterdir()):
        if process.poll() is not None or time.monotonic() - begin > LIMIT:
            return False
        time.sleep(0.001)
    return True


def signals(campaign, place):
    kind = "signals"
    output = place.out / "old"
    output.write_text("precious")

    def sends(*numbers):
        def act(process):
            if wait_for_work(process, place.out):
                for number in numbers:
                    process.send_signal(number)

        return act

    def ignoring(number):
        return lambda: signal.signal(number, signal.SIG_IGN)

    def not_ignoring():  # what started this may ignore them
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    for verb in VERBS:
        run = campaign.arguments(place, verb, output, many=True)
        for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGXCPU"):
            number = getattr(signal, name)
            campaign.case(
                kind,
                f"{verb}: {name}",
                128 + number,
                "interrupted; nothing was written",
                place,
                run,
                act=sends(number),
                preexec_fn=not_ignoring,
            )
        for name in ("SIGKILL", "SIGQUIT", "SIGUSR1", "SIGALRM", "SIGPROF"):
            number = getattr(signal, name)
            before = place.state()
            campaign.run(place, run, act=sends(number), preexec_fn=not_ignoring)
            left = {path for path in place.state() if path not in before}
            # Now the next run removes what was left.
            quick = campaign.arguments(place, verb, place.out / "next")
            campaign.case(kind, f"{verb}: {name}, and the next run", 0, "", place, quick, changes={"out/next", *left})
            (place.out / "next").unlink()
            if place.state() != before:
                campaign.wrong.append(f"signals: {verb}: {name} left something")
        for name in ("SIGHUP", "SIGINT", "SIGTERM"):
            number = getattr(signal, name)
            campaign.case(
                kind,
                f"{verb}: {name} ignored",
                0,
                "",
                place,
                run,
                changes={"out/old"},
                act=sends(number),
                preexec_fn=ignoring(number),
            )
            output.write_text("precious")


def changes_while_read(campaign, place):
    kind = "files that change while read"
    output = place.out / "old"
    output.write_text("precious")

    def rewrite(path):  # the same bytes
        path.write_bytes(path.read_bytes())

    def replace(path):
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        other.rename(path)

    def append(path):
        with path.open("ab") as file:
            file.write(b" ")

    def cut(path):
        os.truncate(path, 0)

    ways = {
        "written to": (rewrite, "changed while it was read: it was written to"),
        "replaced": (replace, "changed while it was read: another file has taken its place"),
        "longer": (append, "changed while it was read: it had"),
        "cut short": (cut, ""),
        "removed": (Path.unlink, "changed while it was read: No such file or directory"),
    }
    files = {
        "the configuration": place.model / "config.json",
        "the index": place.model / "model.safetensors.index.json",
        "the head's file": place.model / "head.safetensors",
    }
    for verb in VERBS:
        for file, path in {**files, "the input": place.many[verb]}.items():
            bytes_before = path.read_bytes()
            for way, (change, words) in ways.items():
                if verb != "score" and way not in ("replaced", "cut short"):
                    continue

                def act(process, change=change, path=path):
                    if wait_for_work(process, place.out):
                        process.send_signal(signal.SIGSTOP)
                        change(path)
                        process.send_signal(signal.SIGCONT)

                changed = set() if way == "written to" else {str(path.relative_to(place.folder))}
                run = campaign.arguments(place, verb, output, many=True)
                campaign.case(
                    kind, f"{verb}: {file} {way}", 1, words, place, run, changed, act=act, may_leave=way == "cut short"
                )
                path.write_bytes(bytes_before)
                for left in place.out.glob(
                    ".isologit-*"
                ):  # of a process that a cut file ended; the next one removes it
                    left.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("command", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    campaign = Campaign(arguments.command)
    for attack in (destinations, replaced, standard_streams, limits, signals, changes_while_read):
        with tempfile.TemporaryDirectory(prefix="isologit-files-") as folder:
            attack(campaign, Place(Path(folder)))
    table = campaign.table()
    print("\n".join(table))
    for text in campaign.skipped:
        print(f"not run: {text}")
    if arguments.page and not campaign.skipped and "\n".join(table) not in arguments.page.read_text():
        campaign.wrong.append(f"{arguments.page} shows another table")
    for text in campaign.wrong:
        print(f"wrong: {text}")
    sys.exit(1 if campaign.wrong else 0)


main()

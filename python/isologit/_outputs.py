"""What the verbs in Python write, by the rules of the command's --output (docs/cli.md): a bad destination is told
before anything is computed, no input is replaced, and a file is there as a whole or not at all."""

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

AnyPath = str | os.PathLike[str]


def check_destination(option: str, path: AnyPath, inputs: Iterable[AnyPath] = (), model: AnyPath = "") -> Path:
    """The file that is to be written, at the end of all links. ValueError where it may not be."""
    given = os.fspath(path)

    def refuse(why: str) -> ValueError:
        return ValueError(f"{option}: cannot write {given!r}: {why}")

    if os.path.basename(given) in ("", ".", ".."):
        raise refuse("it names no file")
    target = Path(os.path.realpath(given))
    try:
        status = os.stat(given)
    except FileNotFoundError:
        folder = target.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            told = errno.EACCES if folder.is_dir() else errno.ENOTDIR if folder.exists() else errno.ENOENT
            raise ValueError(f"{option}: cannot write to folder {str(folder)!r}: {os.strerror(told)}") from None
        status = None
    except OSError as error:
        raise refuse(error.strerror) from None
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise refuse("it is a directory; name a file")
        if not stat.S_ISREG(status.st_mode):
            raise refuse("it exists and is not a regular file; name a file")
        if any(_is_same(status, stream) for stream in (0, 1, 2)):
            raise refuse("it is a standard stream of this process; name a file")
        if not status.st_mode & 0o222 or not os.access(given, os.W_OK):
            raise refuse("it is read-only; remove it or name another file")
        if any(_is_same(status, one) for one in inputs):
            raise refuse("it is an input of this run; name another file")
    if model and os.path.isdir(model):
        inside = target.is_relative_to(os.path.realpath(model))
        if inside or (status is not None and any(_is_same(status, one.path) for one in os.scandir(model))):
            raise refuse(f"it is in the model's folder {os.fspath(model)!r}; name a file elsewhere")
    return target


def _is_same(status: os.stat_result, other: AnyPath | int) -> bool:
    try:
        return os.path.samestat(status, os.stat(other))
    except OSError:
        return False


@contextlib.contextmanager
def written(target: Path | None, text: str) -> Iterator[None]:
    """Has it where check_destination said, once what is done meanwhile did not fail: in the place of what is there,
    whose mode and owner stay. None: nowhere."""
    if target is None:
        yield
        return
    aside = target.with_name(f".isologit-{os.getpid()}-0.tmp")  # which the command removes where a process was killed
    old = target.stat() if target.exists() else None
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if old is None else 0o600)
    try:
        with open(file, "w", encoding="utf-8") as opened:
            fcntl.flock(file, fcntl.LOCK_EX)
            opened.write(text)
            opened.flush()
            if old is not None:
                made = os.fstat(file)
                if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
                    os.fchown(file, old.st_uid, old.st_gid)
                os.fchmod(file, stat.S_IMODE(old.st_mode))
            os.fsync(file)
            yield
            os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def say(text: str) -> None:
    """Prints it, or ends the process with the reason."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(text, flush=True)
    except OSError as error:
        if sys.stdout is not None:  # which Python would flush once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"isologit: cannot write to standard output: {error.strerror}; nothing was written")


def told(error: Exception) -> str:
    """In one line for the command's users, with the file's name where it is of one."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def check_captured(path: AnyPath) -> None:
    """ValueError where rows cannot be captured into a file of this name, and further ones beside it."""
    path = Path(path).absolute()
    if path.is_dir():
        raise ValueError(f"{path} is a directory; expected the name of a file")
    if (path.parent / "config.json").exists():
        raise ValueError(
            f"{path} is in a model's folder (it has a config.json), whose safetensors engines load as weights; name a "
            "file elsewhere"
        )
    folder = next(one for one in path.parents if one.exists())  # the others are made
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write to folder {str(folder)!r}; name a file elsewhere")

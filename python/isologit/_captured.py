"""Files of captured rows: what the command's verbs read, and beside it whose rows they are and what was reported.

One file of safetensors holds, for each row that a head was applied to,

    hidden_states [T, H]  bf16, f16 or f32: what the head was given
    token_ids [T]         i64: the token scored from the row, -100 where there was none
    logprobs [T]          f32: what was reported of that token, NaN where nothing was
    positions [T]         i64: of the row's own token in its sequence; token_ids[i] stands at positions[i] + 1
    sequence_ids [T]      i64: rows with the same number are of one sequence

and where it is not 1 for all rows, temperatures [T] f32. A long run is several such files: FILE, then FILE-00002 and so
on before the suffix, each complete by itself.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isologit._outputs import check_captured

NO_TOKEN = -100  # the verbs' ignore_index
BYTES_PER_FILE = 256 << 20
_DTYPES = {
    "token_ids": torch.int64,
    "logprobs": torch.float32,
    "positions": torch.int64,
    "sequence_ids": torch.int64,
    "temperatures": torch.float32,
}


def shards(path: str | os.PathLike) -> list[Path]:
    """The files of a run that are there, in their order."""
    path = Path(path)
    rest = path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9][0-9]{path.suffix}")
    return [one for one in (path, *sorted(rest)) if one.exists()]


def read(path: str | os.PathLike) -> dict[str, Tensor]:
    """All rows of a run."""
    files = shards(path)
    if not files:
        raise FileNotFoundError(f"{os.fspath(path)}: no such file; expected one that isologit.capture wrote")
    parts: list[dict[str, Tensor]] = []
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                parts.append({name: opened.get_tensor(name) for name in opened.keys()})
        except SafetensorError as error:
            raise ValueError(f"{file}: {error}; expected a file that isologit.capture wrote") from None
        missing = [name for name in ("hidden_states", *_DTYPES) if name not in parts[-1] and name != "temperatures"]
        if missing:
            raise ValueError(f"{file}: no tensor {missing[0]!r}; expected a file that isologit.capture wrote")
        parts[-1].setdefault("temperatures", torch.ones(len(parts[-1]["token_ids"])))
    return {name: torch.cat([part[name] for part in parts]) for name in ("hidden_states", *_DTYPES)}


class Writer:
    """Rows in, files out: at most bytes_per_file of them are held in memory, then they are written."""

    def __init__(
        self, path: str | os.PathLike, *, append: bool = False, bytes_per_file: int = BYTES_PER_FILE, say=None
    ) -> None:
        self.path = Path(path)
        check_captured(self.path)
        there = shards(self.path)
        if there and not append:
            raise FileExistsError(f"{there[0]} exists; expected a new file: name another, or append to it")
        if bytes_per_file < 1:
            raise ValueError(f"bytes_per_file is {bytes_per_file}; expected at least 1")
        self._limit = bytes_per_file
        self._say = say or (lambda text: print(f"isologit: {text}", file=sys.stderr))
        self._parts: list[dict[str, Tensor]] = []
        self._bytes = 0
        self._next = self._number(there[-1]) + 1 if there else 1
        self.rows = 0
        self.first_sequence = 0
        for file in there:
            with safe_open(file, "pt") as opened:
                ids = opened.get_tensor("sequence_ids")
            if len(ids):
                self.first_sequence = max(self.first_sequence, int(ids.max()) + 1)
        self._said = False

    def _number(self, file: Path) -> int:
        return 1 if file == self.path else int(file.stem[-5:])

    def _file(self, number: int) -> Path:
        return self.path if number == 1 else self.path.with_stem(f"{self.path.stem}-{number:05}")

    def add(self, hidden_states: Tensor, **columns: Tensor) -> None:
        """Rows [n, H], and what belongs to each, [n]; temperatures may be left out."""
        count = hidden_states.shape[0]
        row_bytes = hidden_states.shape[1] * hidden_states.element_size() + 36
        if not self._said:
            self._said = True
            dtype = str(hidden_states.dtype).removeprefix("torch.")
            self._say(
                f"capturing hidden_states [*, {hidden_states.shape[1]}] {dtype}, {', '.join(_DTYPES)}: {row_bytes} "
                f"bytes a row, to {self._file(self._next)}, a further file after each {self._rows_of(row_bytes)} rows"
            )
        columns.setdefault("temperatures", torch.ones(count))
        part = {name: columns[name].detach().to("cpu", dtype) for name, dtype in _DTYPES.items()}
        part["hidden_states"] = hidden_states.detach().to("cpu", copy=True)
        done = 0
        while done < count:
            take = min(count - done, max(1, (self._limit - self._bytes) // row_bytes))
            self._parts.append({name: values[done : done + take] for name, values in part.items()})
            self._bytes += take * row_bytes
            done += take
            if self._bytes + row_bytes > self._limit:
                self.flush()
        self.rows += count

    def _rows_of(self, row_bytes: int) -> int:
        return max(1, self._limit // row_bytes)

    def flush(self) -> None:
        """Writes what is held, as a file that is there as a whole or not at all."""
        if not self._parts:
            return
        tensors = {
            name: torch.cat([part[name] for part in self._parts]).contiguous() for name in ("hidden_states", *_DTYPES)
        }
        if bool((tensors["temperatures"] == 1).all()):
            del tensors["temperatures"]
        file = self._file(self._next)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(file.name + ".unfinished")
        try:
            save_file(tensors, unfinished, metadata={"format": "pt", "written_by": "isologit.capture"})
            os.replace(unfinished, file)
        except BaseException:  # the rows are still held, and closing tries once more
            unfinished.unlink(missing_ok=True)
            raise
        self._next += 1
        self._parts, self._bytes = [], 0

    def close(self) -> None:
        self.flush()
        self._say(f"captured {self.rows} rows in {', '.join(map(str, shards(self.path))) or 'no file'}")

"""What files_and_signals.py attacks: a folder with a model and inputs, and runs of the command in it."""

import json
import os
import resource
import stat
import struct
import subprocess

LIMIT = 300  # seconds: none of the runs takes more than some, unless it hangs


def write_safetensors(path, tensors):
    """tensors: name: (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def floats(count, step):
    return struct.pack(f"<{count}f", *((i * step % 257 - 128) / 64 for i in range(count)))


class Place:
    """A folder with a model of two files, one of them a link, and inputs of few and of many rows."""

    vocab, hidden = 512, 64

    def __init__(self, folder):
        self.folder = folder
        self.model, self.blobs, self.out = folder / "model", folder / "blobs", folder / "out"
        for each in (self.model, self.blobs, self.out):
            each.mkdir()
        sizes = {"vocab_size": self.vocab, "hidden_size": self.hidden}
        config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": False, **sizes}
        (self.model / "config.json").write_text(json.dumps(config))
        names = {"lm_head.weight": "head.safetensors", "model.embed_tokens.weight": "body.safetensors"}
        (self.model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        weight = floats(self.vocab * self.hidden, 37)
        write_safetensors(
            self.model / "head.safetensors", {"lm_head.weight": ("F32", [self.vocab, self.hidden], weight)}
        )
        write_safetensors(self.blobs / "body", {"model.embed_tokens.weight": ("F32", [1, self.hidden], weight[:256])})
        (self.model / "body.safetensors").symlink_to("../blobs/body")
        self.input = self.write_input("few.safetensors", 16)
        # Work of half a second for the slowest kernel, or next to none.
        self.many = {
            "score": self.write_input("many.safetensors", 120),
            "logits": self.write_input("more.safetensors", 2500),
        }
        self.many["sample"] = self.many["score"]

    def write_input(self, name, rows):
        path = self.folder / name
        hidden, ids = floats(rows * self.hidden, 101), struct.pack(f"<{rows}q", *(i % self.vocab for i in range(rows)))
        tensors = {"hidden_states": ("F32", [rows, self.hidden], hidden), "token_ids": ("I64", [rows], ids)}
        write_safetensors(path, tensors)
        return path

    def state(self):
        """Everything that a run could have changed."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            of = path.lstat()
            what = None
            if stat.S_ISLNK(of.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(of.st_mode):
                what = path.read_bytes()
            found[str(path.relative_to(self.folder))] = (of.st_mode, of.st_uid, of.st_gid, of.st_ino, what)
        return found


class Campaign:
    def __init__(self, command):
        self.command = command
        self.kinds = {}  # kind: {outcome: number}
        self.wrong = []
        self.skipped = []

    def arguments(self, place, verb, output, many=False):
        hard = ["--kernel", "reference", "--threads", "1"] if many else []
        given = [] if output is None else ["--output", str(output)]
        return [
            verb,
            str(place.model),
            "--input",
            str(place.many[verb] if many else place.input),
            "--json",
            *given,
            *hard,
        ]

    def run(self, place, arguments, act=None, cwd=None, **popen):
        """The exit code, negative for a signal, and what was printed."""
        popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **popen}
        process = subprocess.Popen([self.command, *arguments], cwd=cwd or place.folder, **popen)
        try:
            if act is not None:
                act(process)
            out, err = process.communicate(timeout=LIMIT)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    def case(self, kind, name, code, words, place, arguments, changes=(), prints=None, may_leave=False, **popen):
        """One attack. `changes`: names that are new or different afterwards; may_leave: and what the next run takes."""
        before = place.state()
        got, out, err = self.run(place, arguments, **popen)
        after = place.state()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        changed = {path for path in changed if not may_leave or not path.startswith("out/.isologit-")}
        prints = code == 0 if prints is None else prints
        why = []
        if got != code:
            why.append(f"ended with {got}, not {code}")
        if words not in err or (code > 0 and not err.startswith("isologit: ")):
            why.append(f"'{words}' not in: {err!r}")
        if bool(out) != prints and popen.get("stdout") is None:
            why.append(f"printed {out[:60]!r}")
        if changed != set(changes):
            why.append(f"changed {sorted(changed)}, not {sorted(changes)}")
        outcome = {0: "done", 1: "refused", 2: "refused"}.get(code, "stopped")
        counts = self.kinds.setdefault(kind, {})
        counts[outcome] = counts.get(outcome, 0) + 1
        if why:
            self.wrong.append(f"{kind}: {name}: {'; '.join(why)}")

    @staticmethod
    def processor_time(call, *arguments, **named):
        """Of the runs that the call makes, in seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call(*arguments, **named)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def skip(self, what):
        self.skipped.append(what)

    def table(self):
        columns = ("done", "refused", "stopped")
        rows = [("attacks on", "cases", *columns)]
        total = [0] * 4
        for kind, counts in self.kinds.items():
            numbers = [sum(counts.values()), *(counts.get(column, 0) for column in columns)]
            total = [a + b for a, b in zip(total, numbers, strict=True)]
            rows.append((kind, *map(str, numbers)))
        rows.append(("all", *map(str, total)))
        return [f"{row[0]:34}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows]

"""Damaged files for every reader, and what is said of them.

``python tests/helpers/fuzz.py --inputs 100000`` (``make fuzz``) mutates a small corpus of right
files, by bytes and by their meaning, and gives each to what reads it. A reader takes it or refuses
it with one printable line; anything else is a finding: a traceback, a warning of Python, a signal,
more than `SECONDS` or `GIB`, a control character that gets through. The inputs of a seed are the
same each time; the input of a finding is kept beside the table.
"""

import argparse
import contextlib
import csv
import faulthandler
import gzip
import io
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

SECONDS, GIB, BATCH = 5.0, 2, 100
PAIR = [
    {"id": "a", "prompt": "Say a.", "chosen": "a", "rejected": "b", "subset": "s"},
    {"id": "b", "prompt": "Say é.", "chosen": "é, é", "rejected": 'x "y"', "subset": "s"},
]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
STRANGE = [
    None, True, -1, 0, 1e999, -1e999, float("nan"), 10**400, 1 << 63, "", "\ud800", "\x1b[31mred",
    "\u202etext", "x" * 5000, [], {}, [[[[]]]], {"a": {"b": []}}, "NaN", b"\xff".decode("latin1"),
    [1, "a", None], {"role": "user"}, -1e-300, 3.5, "0", "../../etc", "\0", "🙂",
]  # fmt: skip
TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\0", b"\xff\xfe", b"\x1b[2J", b"NaN",
    b"null", b"1e999", b"[" * 3000, b"9" * 5000, b'"\\ud800"', "\u202e".encode(), b"\xef\xbb\xbf",
    b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"GGUF", b"\x80\x04.", b"-1", b"\xf0\x9f", b"{{", b"{%",
]  # fmt: skip


# --- Mutations ------------------------------------------------------------------------------------


def by_bytes(data, rng, others=()):
    """One to four edits of bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        span = min(len(data) - at, rng.choice([1, 2, 4, 16, 256]))
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x22])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + span]
        elif kind == 4:
            data[at:at] = data[at : at + span] * rng.randint(1, 3)
        elif kind == 5:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 6 and others:
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif len(data) >= 8:
            place = rng.randrange(len(data) - 7)
            data[place : place + 8] = struct.pack("<q", rng.choice([-1, 0, 1 << 40, 1 << 62, 255]))
    return bytes(data)


def by_meaning(value, rng):
    """One edit somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        value = dict(value)
        key = rng.choice(sorted(value))
        kind = rng.randrange(5)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[key + rng.choice(["s", " ", "\x1b", ""])] = value.pop(key)
        elif kind == 2:
            value[rng.choice(["x", "", "\ud800"])] = rng.choice(STRANGE)
        else:
            value[key] = by_meaning(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        value, at = list(value), rng.randrange(len(value))
        kind = rng.randrange(4)
        if kind == 0:
            del value[at]
        elif kind == 1:
            value.insert(at, value[at])
        else:
            value[at] = by_meaning(value[at], rng)
        return value
    return rng.choice(STRANGE)


def array_of(rng, array):
    """An array like another, of another type, shape or content."""
    kind = rng.randrange(10)
    if kind == 0:
        return array.astype(rng.choice(["c16", "f2", "i1", "u8", "U8", "S3", "?", "f4", ">f8"]))
    if kind == 1:
        return array.astype("i8").astype(rng.choice(["m8[s]", "M8[D]"]))
    if kind == 2:
        return array.reshape(-1)
    if kind == 3:
        return array[None]
    if kind == 4 and array.ndim:
        return array[:0] if rng.random() < 0.3 else array[:-1]
    if kind == 5:
        return np.array(rng.choice([np.nan, np.inf, -1, 1e308, 1 << 40, -(1 << 62)]))
    changed = np.array(array, dtype=float if array.dtype.kind != "b" else None)
    if changed.size:
        changed.flat[rng.randrange(changed.size)] = rng.choice(
            [np.nan, np.inf, -np.inf, 1e308, -1, 0]
        )
    return changed


def npz(data, rng):
    """The same arrays, but for one, or but for one name."""
    with np.load(io.BytesIO(data)) as found:
        arrays = dict(found)
    name = rng.choice(sorted(arrays))
    kind = rng.randrange(6)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[rng.choice(["promt_weights", "alowed_0", name + "0", "x\x1b[2J", "é"])] = arrays[
            name
        ]
    else:
        arrays[name] = array_of(rng, arrays[name])
    out = io.BytesIO()
    np.savez(out, **arrays)
    if kind == 2:  # a member without .npy, or one that says that it is large
        with zipfile.ZipFile(out, "a") as archive:
            name = rng.choice(["raw", "../up.npy", "reward_9.npy"])
            archive.writestr(zipfile.ZipInfo(name), b"\0" * 64)  # of no date: the same each time
    return out.getvalue()


def lines(data, rng):
    rows = [json.loads(x) for x in data.decode().splitlines()]
    at = rng.randrange(len(rows))
    rows[at] = by_meaning(rows[at], rng)
    return "".join(json.dumps(x) + "\n" for x in rows).encode()


def one_json(data, rng):
    return json.dumps(by_meaning(json.loads(data), rng)).encode()


def compressed(mutate):
    return lambda data, rng: gzip.compress(mutate(gzip.decompress(data), rng), mtime=0)


def header_of_safetensors(data, rng):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(by_meaning(json.loads(data[8 : 8 + size]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


# --- What is read ---------------------------------------------------------------------------------


class Reader:
    """A kind of file: right ones, how they are damaged by meaning, and what reads them."""

    def __init__(self, name, corpus, read, meaning=None, weight=1.0):
        self.name, self.corpus, self.read, self.meaning = name, corpus, read, meaning
        self.weight = weight
        """Share of the inputs, beside that of others; less for what is slow."""

    def damaged(self, rng):
        data = rng.choice(self.corpus)
        if self.meaning and rng.random() < 0.5:
            with contextlib.suppress(UnicodeEncodeError, ValueError, OverflowError, TypeError):
                return self.meaning(data, rng)
        return by_bytes(data, rng, self.corpus)


def bytes_of(write, suffix=".npz"):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file" + suffix)
        write(path)
        return path.read_bytes()


def command(*words):
    """Read a file by a command; its error is the one line that it prints."""

    def read(path):
        from llm_bridge.commands.main import main

        errors, out = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
            code = main([str(path) if word == "FILE" else word for word in words])
        said = errors.getvalue().strip("\n")
        if code == 2:
            raise ValueError(said)
        if code not in (0, 1):
            raise RuntimeError(f"exit code {code}: {said}")
        if any(not c.isprintable() and c != "\n" for c in out.getvalue()):
            raise RuntimeError("what is printed steers the terminal")

    return read


def mdps():
    from theory.mdp.token_mdp import TokenMDP

    rng = np.random.default_rng(0)
    tree = TokenMDP.tree([rng.random((2**h, 2)) for h in range(3)])
    ended = TokenMDP.tree(
        [rng.random((2 * 3**h, 3)) for h in range(2)], eos=1, prompt_weights=[0.25, 0.75],
        reward_range=(0, 1), allowed=[np.array([[True, True, False]] * 2), None],
    )  # fmt: skip
    window = TokenMDP.window([rng.random((n, 2)) for n in (1, 2, 2)], 1)
    return [bytes_of(mdp.save) for mdp in (tree, ended, window)]


def pairs(path):
    from llm_bridge.preferences.pairs import read_comparisons

    found, problems = read_comparisons(path)
    for problem in problems:
        plain(str(problem))
    for item in found:
        for _, text in item.responses():
            text.encode()


def prompts(path):
    from llm_bridge.commands.options import read_prompts

    if not read_prompts(path):
        raise RuntimeError("nothing is read, and nothing is said")


def run_lines(path):
    from theory.storage.runs import read_lines

    list(read_lines(path, dict))


def note_of_run(path):
    from theory.storage.runs import RunFolder

    (path.parent / "rows.jsonl").write_text('{"a": 1}\n')
    with RunFolder(path.parent, {"seed": 3, "model": "m"}) as folder:
        list(folder.lines("rows.jsonl", parse=dict))


def checkpoint(path):
    from llm_bridge.improve.checkpoint import read_checkpoint

    read_checkpoint(path, {"seed": 0})


def checkpoints():
    import torch

    state = {"identity": {"seed": 0}, "done": 3, "beta": 0.1, "actor": {"w": torch.ones(2, 2)}}
    state |= {"optimizer": {"state": {}}, "generator": torch.get_rng_state()[:64]}
    return [bytes_of(lambda path: torch.save(state, path), ".pt")]


def letters():
    import llm_bridge.models

    return Path(llm_bridge.models.__file__).with_name("letters")


def part_of_model(name):
    """A model folder with one damaged file: loaded, and asked for a conversation."""

    def read(path):
        from llm_bridge.models.prompts import encode_prompt
        from llm_bridge.models.spec import ModelSpec

        folder = path.parent / "model"
        shutil.copytree(letters(), folder, dirs_exist_ok=True)
        shutil.copy(path, folder / name)
        lm = ModelSpec(folder).load()
        encode_prompt(lm, "a", 2)
        if name == "chat_template.jinja":
            encode_prompt(lm, [{"role": "user", "content": "a"}], 2)

    return read


def gguf_model(path):
    from llm_bridge.models.gguf_header import read_header

    read_header(path)


def answer(path):
    """What a server answers when it is asked for tokens."""
    from unittest import mock

    from llm_bridge.models import served

    reply = io.BytesIO(path.read_bytes())
    with mock.patch("urllib.request.urlopen", return_value=reply):
        served.Server("http://127.0.0.1:1/v1", "m", None).read([1, 2, 3], 1)


def told(name):
    token = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    completion = {
        "tokens": list("abcd"),
        "token_logprobs": [None, -0.5, -1.0, -2.0],
        "top_logprobs": [None, {"a": -0.5}, {"b": -1.0}, {"c": -2.0}],
    }
    logs = {"content": [token] * 4} if name == "chat" else completion
    return json.dumps({"choices": [{"logprobs": logs}], "usage": {"prompt_tokens": 3}}).encode()


def readers():
    """Every reader whose packages are there."""
    from importlib.util import find_spec

    text = "".join(json.dumps(x) + "\n" for x in PAIR).encode()
    messages = (
        json.dumps({"chosen": CHAT, "rejected": [CHAT[0], CHAT[1] | {"content": "x"}]}) + "\n"
    ).encode()
    rows = io.StringIO()
    writer = csv.DictWriter(rows, PAIR[0])
    writer.writeheader()
    writer.writerows(PAIR)
    table, whole = rows.getvalue().encode(), json.dumps(PAIR).encode()
    made = [
        Reader("mdp.npz", mdps(), command("solve", "FILE"), npz, 2.0),
        Reader("mdp-with-ball.npz", mdps()[:1], command("solve", "FILE", "--epsilon", "0.1"), npz),
        Reader("run.json", [b'{"seed": 3, "model": "m"}'], note_of_run, one_json),
        Reader("rows.jsonl", [b'{"a": 1}\n{"a": 2, "b": [1.5, null]}\n'], run_lines, lines),
    ]
    if not (find_spec("torch") and find_spec("transformers")):
        return made
    made += [
        Reader("pairs.jsonl", [text, messages], pairs, lines, 2.0),
        Reader("pairs.json", [whole], pairs, one_json),
        Reader("pairs.csv", [table], pairs),
        Reader("pairs.tsv", [table.replace(b",", b"\t")], pairs),
        Reader("pairs.jsonl.gz", [gzip.compress(text, mtime=0)], pairs, compressed(lines)),
        Reader("prompts.txt", [b"once\n\na time\n", "é\n".encode()], prompts),
        Reader("prompts.jsonl", [text, b'"a"\n"b"\n'], prompts, lines),
        Reader("checkpoint.pt", checkpoints(), checkpoint),
        Reader("answer.json", [told("chat"), told("completion")], answer, one_json),
    ]
    if find_spec("pyarrow"):
        from pyarrow import Table, parquet

        data = bytes_of(lambda path: parquet.write_table(Table.from_pylist(PAIR), path), ".parquet")
        made.append(Reader("pairs.parquet", [data], pairs))
    meanings = {"model.safetensors": header_of_safetensors, "chat_template.jinja": None}
    for file in sorted(letters().iterdir()):
        meaning = meanings.get(file.name, one_json)
        made.append(Reader(file.name, [file.read_bytes()], part_of_model(file.name), meaning, 0.25))
    if find_spec("gguf"):
        import gguf_files

        data = bytes_of(lambda path: gguf_files.write(path), ".gguf")
        made.append(Reader("model.gguf", [data], gguf_model))
    return made


# --- Giving it ------------------------------------------------------------------------------------


def plain(message):
    """Refuse a message that is not one printable line."""
    from llm_bridge.commands.main import _line

    shown = _line(ValueError(message))
    if not shown or not shown.isprintable():
        raise RuntimeError(f"no message: {message!r}")


def finding(reader, data, folder):
    """What is wrong with how a file is read, or nothing."""
    path = Path(folder, reader.name)
    path.write_bytes(data)
    since = time.monotonic()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reader.read(path)
    except (ValueError, OSError) as error:
        try:
            plain(str(error))
        except RuntimeError as bad:
            return str(bad)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    foreign = [x for x in caught if not issubclass(x.category, UserWarning)]
    if foreign:
        return f"{foreign[0].category.__name__}: {foreign[0].message}"[:300]
    if time.monotonic() - since > SECONDS:
        return f"took {time.monotonic() - since:.1f} s"
    return None


def batch(reader, seed, first, count, deadline=300.0):
    """Give `count` inputs in a process of their own; yields ``(number, input, what is wrong)``."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receive)
            faulthandler.disable()  # whoever reads the pipe says which signal it was
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            limit = used + GIB * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            with tempfile.TemporaryDirectory() as scratch:
                for number in range(first, first + count):
                    os.write(send, f"{json.dumps([number, None])}\n".encode())
                    folder = Path(scratch, str(number))
                    folder.mkdir()
                    data = reader.damaged(random.Random(f"{seed} {reader.name} {number}"))
                    found = finding(reader, data, folder)
                    shutil.rmtree(folder, ignore_errors=True)
                    if found:
                        os.write(send, f"{json.dumps([number, found])}\n".encode())
        finally:
            os._exit(0)
    os.close(send)
    pieces, until = b"", time.monotonic() + deadline
    os.set_blocking(receive, False)
    while True:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(receive, 1 << 16)
            if not piece:
                break
            pieces += piece
            continue
        if time.monotonic() > until:
            os.kill(child, 9)
        time.sleep(0.01)
    os.close(receive)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told_of = [json.loads(line) for line in pieces.decode().splitlines()]
    found = [(number, what) for number, what in told_of if what]
    done = count
    if status < 0:
        number = told_of[-1][0] if told_of else first
        hung = "hangs" if status == -9 else f"ended by signal {-status}"
        found.append((number, hung))
        done = number - first + 1
    return done, [
        (number, reader.damaged(random.Random(f"{seed} {reader.name} {number}")), what)
        for number, what in found
    ]


def fuzz(names, total, seed=0, out=None, since=None, report=print):
    """Share `total` inputs among readers; returns ``{reader: inputs}`` and the findings."""
    every = [reader for reader in readers() if not names or reader.name in names]
    weight = sum(reader.weight for reader in every)
    counts, findings = dict(since or {}), []
    for reader in every:
        with tempfile.TemporaryDirectory() as folder:  # once: forked processes have the imports
            path = Path(folder, reader.name)
            path.write_bytes(reader.corpus[0])
            reader.read(path)
        wanted = max(1, round(total * reader.weight / weight))
        start = time.monotonic()
        while counts.get(reader.name, 0) < wanted:
            first = counts.get(reader.name, 0)
            done, found = batch(reader, seed, first, min(BATCH, wanted - first))
            counts[reader.name] = first + done
            for number, data, what in found:
                findings.append((reader.name, number, what))
                report(f"{reader.name} {number}: {what}")
                if out:
                    (out / f"{number}-{reader.name}").write_bytes(data)
            if out:
                (out / "counts.json").write_text(json.dumps(counts))
        report(f"{reader.name}: {counts[reader.name]:,} inputs, {time.monotonic() - start:.0f} s")
    return counts, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--readers", nargs="+")
    options = parser.parse_args()
    # a process that is forked has none of the threads that its parent would compute with
    os.environ["OMP_NUM_THREADS"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "counts.json"
    since = json.loads(store.read_text()) if store.exists() else {}
    counts, findings = fuzz(options.readers, options.inputs, options.seed, options.out, since)
    rows = [
        f"| `{name}` | {n:,} | {sum(x[0] == name for x in findings)} |"
        for name, n in counts.items()
    ]
    table = "\n".join(["| file | inputs | findings |", "|---|---:|---:|", *rows])
    (options.out / "table.md").write_text(table + "\n")
    print(table)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

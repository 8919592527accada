"""Shared by the fault injections: runs a command under limits, and judges how it ended.

A trial starts as a fork of a process that has imported slotlab and done nothing else, which saves
the two seconds of the imports; it ends as the command itself does, by leaving the interpreter.
With `cold` a trial starts as a new process. Each trial has one thread, and 4 GiB of resident memory
(sampled every 10 ms, and the kernel's peak at the end). It hangs if it takes 60 seconds of its
processor, or after 60 seconds of the clock does nothing for 10: other programs may slow it down.
"""

import argparse
import atexit
import contextlib
import csv
import fnmatch
import gc
import hashlib
import io
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, IDLE, MEMORY = 60.0, 10.0, 4 * 2**30
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
QUIET = {"COLUMNS": "200", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
RESULTS = Path(__file__).parents[1] / "results" / "faults"
WARM = (
    *("slotlab.cli", "slotlab.checkpoints", "slotlab.publishing", "slotlab.training.loop", "slotlab.runs"),
    *("slotlab.reporting.report", "slotlab.fidelity", "slotlab.segmenting", "slotlab.data.packing"),
    *("slotlab.data.open", "slotlab.data.scenes"),
    *("slotlab.composition", "slotlab.composition.edits", "slotlab.composition.scoring", "slotlab.diagnostics"),
    *("slotlab.figures.composition", "slotlab.figures.curves", "slotlab.figures.slots", "slotlab.cli.composition"),
    *("sklearn.cluster", "sklearn.metrics", "h5py", "torch.utils.tensorboard.writer", "matplotlib.pyplot"),
    *("matplotlib.backends.backend_agg", "rich.progress", "torchmetrics", "scipy.linalg", "torch._dynamo"),
)


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        kind: "fine" (status 0); "sentence" (another status and one line that names the fault);
            "unforeseen" (the line of an error that no one foresaw); "traceback" (or several lines,
            no line, a signal); "hang"; "memory"; "killed" (on purpose).
        said: on stderr.
        out: stdout.
    """

    kind: str
    said: str
    out: str
    seconds: float
    peak: int  # bytes


class Runner:
    """Runs commands, one at a time, in processes that start warm."""

    def __init__(self, cold: bool = False) -> None:
        words = [sys.executable, __file__, "--serve", *(["--cold"] if cold else [])]
        environment = {**os.environ, **ONE_THREAD, **QUIET}
        self._server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._server.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]

    def run(self, words: Sequence[str], folder: Path, **fault: str) -> Ended:
        """Runs `slotlab WORDS` in `folder`; `fault` holds FAULT_AT, FAULT_WHEN, FAULT_LOG."""
        server: Any = self._server
        with tempfile.TemporaryDirectory() as place:
            request = {"words": list(words), "folder": str(folder), "place": place, "fault": fault}
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            if not answer:
                raise RuntimeError("the warm process has ended")
            found = json.loads(answer)
            out, errors = (_text(Path(place) / name) for name in ("out", "errors"))
        said = errors.strip()
        return Ended(_judged(found, errors), said, out, found["seconds"], found["peak"])

    def close(self) -> None:
        """Ends the warm process."""
        server: Any = self._server
        server.stdin.close()
        server.wait()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _judged(found: dict[str, Any], errors: str) -> str:
    if found["peak"] > MEMORY:
        return "memory"
    if found["stopped"]:
        return "hang"
    if found["status"] == -signal.SIGKILL:
        return "killed"
    lines = [line for line in errors.splitlines() if line.startswith("slotlab: ")]
    if "Traceback (most recent call last)" in errors or found["status"] < 0:
        return "traceback"
    if found["status"] == 0:
        return "fine"
    if found["status"] == 1 and not lines:  # `data check` found broken files, and its table lists them
        return "sentence" if found["printed"] else "traceback"
    if len(lines) != 1:
        return "traceback"
    return "unforeseen" if "SLOTLAB_TRACEBACK=1" in lines[0] else "sentence"


# The warm process and its forks.


def serve(cold: bool) -> None:
    """Answers requests on stdin; in a fork it returns after the command."""
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in () if cold else WARM:
            importlib.import_module(name)
    gc.freeze()  # so that forks do not copy what they only count
    print("ready", flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        started, child = time.monotonic(), os.fork()
        if child == 0:
            _become(request, cold)
        peak, stopped, spent, busy = 0, False, 0.0, started
        while True:
            ended, status, usage = os.wait4(child, os.WNOHANG)
            if ended:
                break
            peak = max(peak, _resident(child))
            now, before, spent = time.monotonic(), spent, _processor_seconds(child)
            busy = now if spent > before else busy
            if not stopped and (peak > MEMORY or spent > SECONDS or (now - started > SECONDS and now - busy > IDLE)):
                stopped = True
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # what it may have started
            os.killpg(child, signal.SIGKILL)
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "stopped": stopped,
            "peak": max(peak, usage.ru_maxrss * 1024),
            "seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "printed": (Path(request["place"]) / "out").stat().st_size,
        }
        print(json.dumps(answer), flush=True)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _processor_seconds(process: int) -> float:
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _become(request: dict[str, Any], cold: bool) -> None:
    os.setsid()
    place, folder = Path(request["place"]), request["folder"]
    for number, path, how in ((0, "/dev/null", os.O_RDONLY), (1, place / "out", None), (2, place / "errors", None)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT if how is None else how)
        os.dup2(opened, number)
    os.chdir(folder)
    os.environ.update(request["fault"], PWD=folder, TMPDIR=str(place))
    tempfile.tempdir = None
    if cold:
        os.execv(sys.executable, [sys.executable, __file__, "--run", *request["words"]])
    from slotlab import files

    files.MARK = secrets.token_hex(3)  # which each process draws for itself
    status = 0
    try:
        command(request["words"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # without taking a copy of every page apart


def command(words: Sequence[str]) -> None:
    """Runs `slotlab WORDS` in this process, with the kill that the environment asks for."""
    if "FAULT_LOG" in os.environ:
        _count_changes(Path.cwd(), int(os.environ.get("FAULT_AT", "-1")), os.environ.get("FAULT_WHEN", "before"))
    from slotlab.cli import main

    sys.argv = ["slotlab", *words]
    main()


def _count_changes(folder: Path, at: int, when: str) -> None:
    """Writes renames and removals below `folder` to FAULT_LOG; kills this process at number `at`.

    A rename is killed before it is done, or after; a removal before.
    """
    lock, log = threading.Lock(), os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def counted(function: Callable[..., None], kind: str) -> Callable[..., None]:
        def change(path: Any, *more: Any, **options: Any) -> None:
            nonlocal count
            beside = options.get("dir_fd", options.get("src_dir_fd"))
            parent = Path.cwd() if beside is None else Path(f"/proc/self/fd/{beside}").readlink()
            target = parent / os.fsdecode(path)
            if folder not in target.parents or not os.path.lexists(target):
                return function(path, *more, **options)
            with lock:
                number, count = count, count + 1
                os.write(log, f"{kind} {target.relative_to(folder)}\n".encode())
            if number == at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            function(path, *more, **options)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        return change

    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        kind = "rename" if name in ("rename", "replace") else "remove"
        setattr(os, name, counted(getattr(os, name), kind))


# Comparison of folders.

MAY_DIFFER = {  # what depends on the clock, on the process, or on how often a command was started
    "*/tensorboard/*": "whole",  # names hold the time and the process
    "*/loss.png": "whole",  # drawn over seconds
    "*history.csv": ("seconds", "images_per_second"),
    "*.json": ("date", "seconds", "command", "commit"),  # command: with --resume or without
    "*/segments.csv": ("status",),  # written, or kept from the run before
    "*.npz": "last digits",  # a batch that was begun has fewer images the second time
    "*/trainer.pt": ("seconds", "images_per_second"),
}


def content(path: Path, name: str) -> object:
    """What a file holds, without what may differ."""
    wanted = [left_out for pattern, left_out in MAY_DIFFER.items() if fnmatch.fnmatch(f"/{name}", pattern)]
    if "whole" in wanted:
        return None
    names = wanted[0] if wanted else ()
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return dict(arrays)
        if path.suffix == ".json":
            return _without(json.loads(path.read_text(encoding="utf-8")), names)
        if path.suffix == ".csv" and names:
            rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
            return [_without(row, names) for row in rows]
        if path.suffix == ".pt" and names:
            import torch

            return _without(torch.load(path, weights_only=True), names)
    except Exception as error:
        return f"unreadable: {error}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without(one, names) for key, one in value.items() if key not in names}
    if isinstance(value, list | tuple):
        return [_without(one, names) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def tree(folder: Path) -> dict[str, object]:
    """The files below a folder by name, and their content; TensorBoard's are left out."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and "/tensorboard/" not in name:
            found[name] = content(path, name) if path.is_file() else "not a file"
    return found


def compared(found: Mapping[str, object], wanted: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Files that are missing or hold something else, and those that should not exist."""
    other = [name for name, held in wanted.items() if name not in found or not _same(found[name], held)]
    return other, sorted(found.keys() - wanted)


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict) and any(isinstance(held, np.ndarray) for held in one.values()):
        return one.keys() == other.keys() and all(
            np.allclose(one[name], other[name], rtol=1e-4, atol=1e-5)
            if one[name].dtype.kind == "f"
            else np.array_equal(one[name], other[name])
            for name in one
        )
    return one == other


# What the scripts share: options, folders, tables.


@contextlib.contextmanager
def trials(options: argparse.Namespace) -> Iterator[tuple[Runner, Path]]:
    """A runner, and a folder for inputs and trials that is removed at the end, if not kept."""
    folder = Path(tempfile.mkdtemp(prefix="slotlab-faults-"))
    runner = Runner(options.cold)
    try:
        yield runner, folder
    finally:
        runner.close()
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="few trials of each kind, in a minute")
    made.add_argument("--only", nargs="*", metavar="KIND", help="only these rows of the table")
    made.add_argument("--cold", action="store_true", help="start a new process for each trial (2 s more)")
    made.add_argument("--keep", action="store_true", help="keep the folders of trials that fail")
    made.add_argument("--verbose", action="store_true", help="print every trial")
    made.add_argument("--csv", type=Path, help="write the table here too")
    return made


class Table:
    """Counts of outcomes by kind, and the faults in words."""

    def __init__(self, columns: Sequence[str], faults: Sequence[str], verbose: bool) -> None:
        self.columns, self.faults, self.verbose = columns, faults, verbose
        self.counts: dict[str, Counter[str]] = {}
        self.notes: dict[str, str] = {}
        self.seconds: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._started = time.monotonic()

    def add(self, kind: str, trial: str, outcome: str, said: str, peak: int) -> None:
        """Counts a trial; prints it if it is a fault."""
        self.counts.setdefault(kind, Counter())[outcome] += 1
        self.peak[kind] = max(self.peak[kind], peak)
        self.seconds[kind] += int(1000 * (time.monotonic() - self._started))
        self._started = time.monotonic()
        if outcome in self.faults or self.verbose:
            print(f"  {outcome.upper():10} {kind}, {trial}: {said[-600:]}", flush=True)

    def write(self, path: Path | None) -> bool:
        """Prints the table, and writes it as CSV; whether there was no fault."""
        whole = sum(self.counts.values(), Counter[str]())
        rows: list[tuple[object, ...]] = [("kind", "trials", *self.columns, "peak_mib", "seconds", "note")]
        for kind, counts in [*self.counts.items(), ("all", whole)]:
            numbers = [counts.total(), *(counts[column] for column in self.columns)]
            peak, seconds = (self.peak[kind], self.seconds[kind]) if kind != "all" else self._of_all()
            rows.append((kind, *numbers, peak // 2**20, round(seconds / 1000), self.notes.get(kind, "")))
        for first, *cells, note in rows:
            print(f"{first!s:22}" + "".join(f"{cell!s:>11}" for cell in cells) + f"  {note}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
        return not any(whole[fault] for fault in self.faults)

    def _of_all(self) -> tuple[int, int]:
        return max(self.peak.values(), default=0), self.seconds.total()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve("--cold" in sys.argv)
    elif sys.argv[1] == "--run":
        command(sys.argv[2:])

"""Runs each command that writes on disks that are too small, then on a larger one again.

    python benchmarks/faults/disks.py [--quick] [--only train "data pack"]

Protocol. An undisturbed run on a tmpfs finds the most bytes that it holds at a time. Then, for each
of 11 sizes from a twelfth of that to eleven twelfths, the command runs on a tmpfs of that size; the
disk is made large, and the command runs again, training with --resume. Both ends are judged:
"fine": the first run had enough; "sentence": it said in one line that space is missing, and the
second run's files are those of the undisturbed run (`trial.MAY_DIFFER` lists what may differ);
"vague": the line does not speak of space; "refused": the second run ends with a sentence; "lost": a
file is missing or differs after it; "left": something temporary is left.

It mounts file systems in a new namespace (unshare --user --map-root-user --mount). Where a system
or container forbids that, it says so and ends with status 3.
"""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from commands import Command, chosen, prepare
from kills import outcome
from trial import RESULTS, Ended, Runner, Table, parser, tree, trials

COLUMNS = ("fine", "sentence", "vague", "refused", "traceback", "hang", "memory", "lost", "left")
INSIDE = "SLOTLAB_FAULTS_MOUNTS"
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
PARTS, LARGE = 12, 64 * 2**20


def mount(folder: Path, size: int, again: bool = False) -> None:
    """Mounts a tmpfs of `size` bytes, or gives the one that is mounted this size."""
    how = f"{'remount,' if again else ''}size={size},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], check=True)


def most_used(runner: Runner, command: Command, place: Path) -> tuple[Ended, int]:
    """Runs a command; the most bytes that its disk holds meanwhile."""
    done, most = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], used(place))

    watcher = threading.Thread(target=watch)
    watcher.start()
    ended = runner.run(command.words.split(), place)
    done.set()
    watcher.join()
    return ended, most[0]


def used(place: Path) -> int:
    """Bytes in use on a disk."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def main() -> None:
    """Runs all trials."""
    options = parser(__doc__).parse_args()
    if INSIDE not in os.environ:
        if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
            print(f"{' '.join(UNSHARE)} is not allowed here, so no small disks can be mounted; nothing was tried")
            sys.exit(3)
        os.execvpe(UNSHARE[0], [*UNSHARE, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    with trials(options) as (runner, folder):
        inputs, place = prepare(runner, folder), folder / "work"
        place.mkdir()
        table = Table(COLUMNS, COLUMNS[2:], options.verbose)
        for name, command in chosen(options.only).items():
            mount(place, LARGE)
            before = used(command.place(inputs, place))
            ended, most = most_used(runner, command, place)
            if ended.kind != "fine":
                raise SystemExit(f"{name}: {ended.said}")
            wanted = tree(place)
            subprocess.run(["umount", str(place)], check=True)
            needs = max(most - before, PARTS * 4096)  # the most may fall between two looks
            table.notes[name] = f"needs {needs // 1024} KiB"
            for part in (1, 6, 11) if options.quick else range(1, PARTS):
                size = before + needs * part // PARTS // 4096 * 4096
                mount(place, LARGE)
                command.place(inputs, place)
                mount(place, max(size, 8192), again=True)
                ended = runner.run(command.words.split(), place)
                kind, said, peak = ended.kind, ended.said, ended.peak
                if kind == "unforeseen" or (kind == "sentence" and "space" not in said):
                    kind = "vague"
                mount(place, LARGE, again=True)
                if kind in ("fine", "sentence"):
                    second, words, more = outcome(runner, command, place, wanted)
                    if second != "equal":
                        kind, said, peak = second, words, max(peak, more)
                table.add(name, f"{part} of {PARTS} parts, {size // 1024} KiB", kind, said, peak)
                subprocess.run(["umount", str(place)], check=True)
    sys.exit(not table.write(options.csv or (None if options.quick or options.only else RESULTS / "disks.csv")))


if __name__ == "__main__":
    main()

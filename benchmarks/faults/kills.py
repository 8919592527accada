"""Kills each command that writes at every rename and removal, and runs it again.

    python benchmarks/faults/kills.py [--quick] [--only train "data pack"]

Protocol. An undisturbed run counts the changes of names below its folder: renames, and removals of
files and folders. Then, each time in a new folder, the command is killed (kill -9) before or after
the n-th rename, or before the n-th removal, and run again, training with --resume. "equal":
the second run ends well, its files are those of the undisturbed run (`trial.MAY_DIFFER` lists what
may differ: times), and there is no other file. "refused": the second run ends with a sentence;
"lost": a file is missing or differs; "left": something temporary is left. Renames are all tried;
of more than 40 removals of a command 40 are, evenly spread.
"""

import shutil
import sys
from pathlib import Path

from commands import Command, chosen, prepare
from trial import RESULTS, Runner, Table, compared, parser, tree, trials

COLUMNS = ("equal", "refused", "traceback", "hang", "memory", "lost", "left", "missed")
REMOVALS = 40


def points(log: Path, quick: bool) -> tuple[list[tuple[int, str, str]], str]:
    """When to kill: number, before or after, the change; and a note on what was left out."""
    lines = log.read_text().splitlines() if log.exists() else []
    renames = [n for n, line in enumerate(lines) if line.startswith("rename")]
    removals = [n for n, line in enumerate(lines) if line.startswith("remove")]
    most_renames, most_removals = (2, 1) if quick else (len(renames), REMOVALS)
    kept_renames, kept_removals = _spread(renames, most_renames), _spread(removals, most_removals)
    chosen = [(n, when, lines[n]) for n in kept_renames for when in ("before", "after")]
    chosen += [(n, "before", lines[n]) for n in kept_removals]
    note = f"{len(kept_renames)} of {len(renames)} renames, {len(kept_removals)} of {len(removals)} removals"
    return chosen, note


def _spread(numbers: list[int], most: int) -> list[int]:
    count = min(most, len(numbers))
    return [numbers[(2 * n + 1) * len(numbers) // (2 * count)] for n in range(count)]


def outcome(runner: Runner, command: Command, folder: Path, wanted: dict[str, object]) -> tuple[str, str, int]:
    """Runs a command that was disturbed again: its outcome, what it said, and its memory."""
    ended = runner.run([*command.words.split(), *command.again.split()], folder)
    if ended.kind != "fine":
        return {"sentence": "refused", "unforeseen": "refused"}.get(ended.kind, ended.kind), ended.said, ended.peak
    lost, left = compared(tree(folder), wanted)
    kind = "lost" if lost else "left" if left else "equal"
    return kind, ", ".join(lost or left), ended.peak


def main() -> None:
    """Runs all trials."""
    options = parser(__doc__).parse_args()
    with trials(options) as (runner, folder):
        inputs = prepare(runner, folder)
        table = Table(COLUMNS, COLUMNS[1:], options.verbose)
        for name, command in chosen(options.only).items():
            log = folder / "log"
            log.unlink(missing_ok=True)
            place = command.place(inputs, folder / "work")
            ended = runner.run(command.words.split(), place, FAULT_LOG=str(log))
            if ended.kind != "fine":
                raise SystemExit(f"{name}: {ended.said}")
            wanted = tree(place)
            shutil.rmtree(place)
            kills, table.notes[name] = points(log, options.quick)
            for number, when, change in kills:
                place = command.place(inputs, folder / "work")  # one name: some files hold their folder's
                fault = {"FAULT_LOG": str(folder / "ignored"), "FAULT_AT": str(number), "FAULT_WHEN": when}
                ended = runner.run(command.words.split(), place, **fault)
                if ended.kind == "killed":
                    kind, said, peak = outcome(runner, command, place, wanted)
                else:
                    kind, said, peak = "missed", ended.said, ended.peak
                table.add(name, f"{when} {number} ({change})", kind, said, max(peak, ended.peak))
                if options.keep and kind != "equal":
                    place.rename(folder / f"{name}-{number}-{when}")
                else:
                    shutil.rmtree(place)
    sys.exit(not table.write(options.csv or (None if options.quick or options.only else RESULTS / "kills.csv")))


if __name__ == "__main__":
    main()

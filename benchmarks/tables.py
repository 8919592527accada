"""Writes the tables of docs/speed.md from the CSV files in `benchmarks/results`.

    python benchmarks/tables.py            # writes them into docs/speed.md
    python benchmarks/tables.py --check    # only says whether they are up to date

A table stands between `<!-- table NAME -->` and `<!-- end of table -->`. NAME is a CSV file's, or
`headlines`:
slotlab beside another contender, a line for each of HEADLINES that can be compared.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from slotlab.files import replacing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "docs" / "speed.md",)
# The file, how slotlab's contender begins, and the other's. Slotlab alone, where there is no other.
HEADLINES = (
    ("reference", "slotlab", "plain PyTorch"),
    ("reference", "slotlab", "evelinehong"),
    ("time-to-objects", "slotlab", "the report's recipe"),
    ("time-to-objects", "slotlab", "evelinehong"),
    ("denoiser", "slotlab", "diffusers"),
    ("sampler-speed", "slotlab, dpm-solver++, 25 steps", "slots recomputed each step"),
    ("ari", "slotlab, ARI", "scikit-learn"),
    ("ari", "slotlab, ARI", "one-hot einsum"),
    ("kmeans", "slotlab", "scikit-learn"),
    ("loader", "packed, 0 worker processes", "files, 0 worker processes"),
    ("segment", "1,000 images", None),
)
BETWEEN = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
Line = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fails if a table is out of date")
    options = parser.parse_args()
    for path in DOCUMENTS:
        before = path.read_text(encoding="utf-8")
        after = with_tables(before, RESULTS)
        if before != after and options.check:
            sys.exit(f"{path.name}: tables differ from {RESULTS.name}/*.csv; run python benchmarks/tables.py")
        if before != after:
            with replacing(path) as temporary:
                temporary.write_text(after, encoding="utf-8")
        print(f"{path.name}: {'up to date' if before == after else 'written'}")


def with_tables(text: str, results: Path) -> str:
    """A document with the tables that its markers name."""
    return BETWEEN.sub(lambda found: f"{found[1]}{table(found[2], results)}{found[3]}", text)


def table(name: str, results: Path) -> str:
    """A table in Markdown, and who measured it on what."""
    if name == "headlines":
        files = dict.fromkeys(file for file, _, _ in HEADLINES)
        lines = {file: read(results / f"{file}.csv") for file in files}
        rows = [row for file, ours, other in HEADLINES for row in headlines(lines[file], ours, other)]
        used = [line for one in lines.values() for line in one]
        head = ("work", "slotlab", "other", "ratio")
    else:
        used = read(results / f"{name}.csv")
        rows, head = full_rows(used)
    if not rows:
        return "*Not measured yet.*\n"
    aligned = ["---:" if column in ("wall", "processor", "ratio", "memory", "rounds") else "---" for column in head]
    drawn = "".join(f"| {' | '.join(cells)} |\n" for cells in (head, aligned, *rows))
    return f"{drawn}\n{where(used)}\n"


def headlines(lines: list[Line], ours: str, other: str | None) -> list[tuple[str, ...]]:
    """A row for each work with a ratio, or that slotlab did alone; counts are left out."""
    rows, timed = [], [line for line in lines if line["rounds"] != "0"]
    for work in dict.fromkeys(line["work"] for line in timed):
        same = [line for line in timed if line["work"] == work]
        mine = next((line for line in same if line["contender"].startswith(ours)), None)
        their = next((line for line in same if other is not None and line["contender"].startswith(other)), None)
        if mine is not None and (other is None or their is not None):
            others, ratio = "", ratio_of(mine, their)
            if their is not None:
                others = f"{quantity(their)} ({their['contender']})"
            if ratio or other is None:
                rows.append((work, f"{quantity(mine)} ({mine['contender']})", others, ratio))
    return rows


def ratio_of(mine: Line, their: Line | None) -> str:
    """How many times as fast slotlab is; a lower bound if the other was stopped early."""
    if their is None or "not reached" in mine["contender"]:
        return ""
    ours, others = float(mine["value"]), float(their["value"])
    ratio = ours / others if mine["unit"].endswith("/s") else others / ours
    if "not reached" in their["contender"]:
        return f"over {ratio:.3g}" if ratio > 1 else ""
    return f"{ratio:.3g}"


def full_rows(lines: list[Line]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """All lines of a file, without empty columns."""
    rows, work = [], ""
    for line in lines:
        shown = "" if line["work"] == work else line["work"]
        work = line["work"]
        processor = f"{float(line['processor']):,g}" if line["processor"] else ""
        memory = f"{float(line['peak_mib']):,.0f} MiB" if line["peak_mib"] else ""
        rounds = "" if line["rounds"] == "0" else line["rounds"]
        rows.append((shown, line["contender"], quantity(line), processor, line["ratio"], memory, rounds))
    head = ("work", "contender", "wall", "processor", "ratio", "memory", "rounds")
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return [tuple(row[place] for place in kept) for row in rows], tuple(head[place] for place in kept)


def quantity(line: Line) -> str:
    """A value with its unit."""
    return f"{float(line['value']):,g} {line['unit']}"


def where(lines: Iterable[Line]) -> str:
    """The machines and versions of the lines."""
    places = dict.fromkeys(f"{line['machine']}; {line['versions']}" for line in lines)
    return f"*{'. '.join(places)}.*"


def read(path: Path) -> list[Line]:
    """The lines of a CSV file; none if it is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()

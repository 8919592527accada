"""Tables of concept libraries and compositions for the terminal, each with its protocol below."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.composition.scoring import CompositionScores


def concept_table(library: ConceptLibrary) -> Group:
    """A row per concept: how many slots it has, and their mean share of the image."""
    facts, data = library.table.facts, library.table.facts["data"]
    lines = [
        f"protocol: data {data['data']}, split {data['split']}, crop {data['crop']}, resolution {data['resolution']}, "
        f"images {facts['images']}, seed {facts['seed']}, model {facts['fingerprint'][:12]}",
        f"{len(library.table)} slots, {facts['dropped']} dropped: {facts['rules']['dropped']}",
        f"{library.facts['algorithm']}, seed {library.facts['seed']}, inertia {library.facts['inertia']:.4g}, "
        f"number of concepts: {library.facts['chosen_by']}",
    ]
    if library.facts.get("silhouettes"):
        scores = library.facts["silhouettes"].items()
        lines.append("silhouette: " + ", ".join(f"{score:.3f} with {count}" for count, score in scores))
    if library.facts["purity"]:
        lines.append("; ".join(f"{name}: {value:.1%}" for name, value in library.facts["purity"].items()))
    for name, found in library.facts.get("attributes", {}).items():
        lines.append(
            f"purity of concepts in {name}: {found['purity']:.1%} (in one concept: {found['one concept']:.1%})"
        )
    table = _table(("concept", "slots", "mean area"))
    for concept, (size, rows) in enumerate(zip(library.sizes, library.members, strict=True)):
        name = "background" if concept == BACKGROUND else str(concept)
        table.add_row(name, f"{size:,}", f"{library.table.area[rows].mean():.1%}")
    return _with_lines(table, lines)


def composition_table(scores: CompositionScores) -> Group:
    """A row for the compositions, for reconstructions and for shuffled slots: distances and numbers of images."""
    protocol, first = scores.protocol, next(iter(scores.results.values()))
    real, composition = protocol["real"], protocol["composition"]
    line = (
        f"protocol: features {protocol['features']} ({protocol['features_fingerprint']}), {protocol['resize']} resize; "
        f"real: {real['data']}, split {real['split']}, crop {real['crop']}, resolution {real['resolution']}, "
        f"images {real['images']}; library: {_library(composition['library'])}; seed {composition['seed']}"
        f"{_sampling(composition['model'])}"
    )
    notes: dict[str, str] = {}
    for result in scores.results.values():
        for note in result.notes:  # of notes that differ only in the distance by chance, which the table has, the first
            notes.setdefault(note.partition(", here by about")[0], note)
    table = _table(("pictures", first.name, "by chance", first.kernel_name, "n"))
    for name, result in scores.results.items():
        kernel = f"{result.kernel:.4g} ± {result.kernel_deviation:.2g}"
        table.add_row(name, f"{result.distance:.4g}", f"{result.chance:.3g}", kernel, f"{result.generated.count:,}")
    return _with_lines(table, [line, *(f"note: {note}" for note in notes.values())])


def _library(library: Mapping[str, Any]) -> str:
    data = library["data"]
    return f"{data['data']}, split {data['split']}, images {library['images']}, {library['concepts']} concepts"


def _sampling(model: Mapping[str, Any]) -> str:
    shown = ("sampler", "sampling_steps", "guidance", "weights")
    return "".join(f", {key} {model[key]}" for key in shown if key in model)


def _table(headings: tuple[str, ...]) -> Table:
    table = Table(padding=0, box=box.SIMPLE_HEAD)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _with_lines(table: Table, lines: Sequence[str]) -> Group:
    return Group(table, Text("\n".join(lines), style="dim"))

"""Tables of concept libraries and compositions for the terminal; the protocol is the caption of each."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from slotlab.composition.library import BACKGROUND, ConceptLibrary
from slotlab.composition.scoring import CompositionScores


def concept_table(library: ConceptLibrary) -> Table:
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
    table = _table("\n".join(lines), ("concept", "slots", "mean area"))
    for concept, (size, rows) in enumerate(zip(library.sizes, library.members, strict=True)):
        name = "background" if concept == BACKGROUND else str(concept)
        table.add_row(name, f"{size:,}", f"{library.table.area[rows].mean():.1%}")
    return table


def composition_table(scores: CompositionScores) -> Table:
    """A row for the compositions, for reconstructions and for shuffled slots: distances and numbers of images."""
    protocol, first = scores.protocol, next(iter(scores.results.values()))
    real, composition = protocol["real"], protocol["composition"]
    line = (
        f"protocol: features {protocol['features']} ({protocol['features_fingerprint']}), {protocol['resize']} resize; "
        f"real: {real['data']}, split {real['split']}, crop {real['crop']}, resolution {real['resolution']}, "
        f"images {real['images']}; library: {_library(composition['library'])}; seed {composition['seed']}"
        f"{_sampling(composition['model'])}"
    )
    notes = sorted({note for result in scores.results.values() for note in result.notes})
    caption = "\n".join([line, *(f"note: {note}" for note in notes)])
    table = _table(caption, ("pictures", first.name, "by chance", first.kernel_name, "n"))
    for name, result in scores.results.items():
        kernel = f"{result.kernel:.4g} ± {result.kernel_deviation:.2g}"
        table.add_row(name, f"{result.distance:.4g}", f"{result.chance:.3g}", kernel, f"{result.generated.count:,}")
    return table


def _library(library: Mapping[str, Any]) -> str:
    data = library["data"]
    return f"{data['data']}, split {data['split']}, images {library['images']}, {library['concepts']} concepts"


def _sampling(model: Mapping[str, Any]) -> str:
    shown = ("sampler", "sampling_steps", "guidance", "weights")
    return "".join(f", {key} {model[key]}" for key in shown if key in model)


def _table(caption: str, headings: tuple[str, ...]) -> Table:
    table = Table(padding=0, box=box.SIMPLE_HEAD, caption=escape(caption), caption_justify="left", caption_style="dim")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    return table

"""Tables for the terminal."""

import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slotlab.config import preset_names, read_preset
from slotlab.released import CARD_FILE, machines_of, model_folder, released_facts, released_names, size_of

if TYPE_CHECKING:
    from slotlab.composition.library import ConceptLibrary
    from slotlab.composition.scoring import CompositionScores
    from slotlab.data import DataCheck
    from slotlab.evaluation import Evaluation
    from slotlab.metrics.metrics import Score

FRAMED = {"padding": (0, 1), "box": box.HEAVY_HEAD}
MOST_BROKEN = 20  # broken files listed under the table of a data check


def evaluate_command(model: str, source: str, settings: Mapping[str, Any]) -> str:
    """The command that scores a model on data with the `settings` of a run or of a protocol."""
    words = ["slotlab", "evaluate", model, "--data", source]
    of_kind = ("min_objects", "max_objects", "supersample") if source.startswith("scenes:") else ("crop",)
    for name in ("split", "count", "ignore", "mask_resolution", "min_area", "frames", "stride", *of_kind):
        value = settings.get(name)
        if value is not None and (name, value) not in (("supersample", 1), ("stride", 1)):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if settings.get("skip_broken") or "broken" in settings:
        words.append("--skip-broken")
    return shlex.join(words)


def data_table(found: "DataCheck") -> Group:
    """Counts of a data set, with its broken files below."""

    def joined(counts: Mapping[Any, int]) -> str:
        return ", ".join(f"{key}: {value}" for key, value in counts.items()) or "-"

    splits = ", ".join(f"{name} {size}" for name, size in found.splits.items())
    rows = {"images": str(found.count), "splits": splits or "none: used whole"}
    if found.clips:
        rows = {"frames": rows["images"], "splits, in clips": rows["splits"]}
    rows |= {"sizes": joined(found.sizes), "modes": joined(found.modes), "with masks": str(found.masks)}
    if found.masks:
        rows["objects: images"] = joined(found.objects)
        if found.crop < 1:
            rows[f"objects after crop {found.crop:g}"] = joined(found.objects_cropped)
        rows |= {"with ignored pixels": str(found.ignored)} if found.ignored else {}
        rows["ids with gaps"] = f"{found.gaps} (allowed)" if found.gaps else "0"
    table = Table(title=f"{found.data} ({found.kind})", show_header=False)
    for row in rows.items():
        table.add_row(*row)
    table.add_row("broken", Text(str(len(found.broken)), style="bold red" if found.broken else "green"))
    lines = [Text(f"{count} of {found.count} images: {note}", style="yellow") for note, count in found.notes.items()]
    lines += [Text(file.reason) for file in found.broken[:MOST_BROKEN]]
    if len(found.broken) > MOST_BROKEN:
        lines.append(Text(f"... and {len(found.broken) - MOST_BROKEN} more"))
    return Group(table, *lines)


def concept_table(library: "ConceptLibrary") -> Group:
    """A row per concept: how many slots it has, and their mean share of the image."""
    from slotlab.composition.library import BACKGROUND

    slots, facts = library.table.facts, library.facts
    data = slots["data"]
    lines = [
        f"protocol: data {data['data']}, split {data['split']}, crop {data['crop']}, resolution {data['resolution']}, "
        f"images {slots['images']}, seed {slots['seed']}, model {slots['fingerprint'][:12]}",
        f"{len(library.table)} slots, {slots['dropped']} dropped: {slots['rules']['dropped']}",
        f"{facts['algorithm']}, seed {facts['seed']}, inertia {facts['inertia']:.4g}, "
        f"number of concepts: {facts['chosen_by']}",
    ]
    if tried := facts.get("silhouettes"):
        lines.append("silhouette: " + ", ".join(f"{score:.3f} with {count}" for count, score in tried.items()))
    if facts.get("purity"):
        lines.append("; ".join(f"{name}: {value:.1%}" for name, value in facts["purity"].items()))
    for name, found in (facts.get("attributes") or {}).items():
        lines.append(
            f"purity of concepts in {name}: {found['purity']:.1%} (in one concept: {found['one concept']:.1%})"
        )
    table = table_of("concept", "slots", "mean area")
    for concept, (size, rows) in enumerate(zip(library.sizes, library.members, strict=True)):
        name = "background" if concept == BACKGROUND else str(concept)
        table.add_row(name, f"{size:,}", f"{library.table.area[rows].mean():.1%}")
    return _above(table, lines)


def composition_table(scores: "CompositionScores") -> Group:
    """Distances of compositions, reconstructions and shuffled slots, a row for each."""
    protocol, first = scores.protocol, next(iter(scores.results.values()))
    real, composition = protocol["real"], protocol["composition"]
    library, model = composition["library"], composition["model"]
    data = library["data"]
    sampling = (f", {key} {model[key]}" for key in ("sampler", "sampling_steps", "guidance", "weights") if key in model)
    line = (
        f"protocol: features {protocol['features']} ({protocol['features_fingerprint']}), {protocol['resize']} resize; "
        f"real: {real['data']}, split {real['split']}, crop {real['crop']}, resolution {real['resolution']}, "
        f"images {real['images']}; library: {data['data']}, split {data['split']}, images {library['images']}, "
        f"{library['concepts']} concepts; seed {composition['seed']}{''.join(sampling)}"
    )
    table = table_of("pictures", first.name, "by chance", first.kernel_name, "n")
    notes: dict[str, str] = {}
    for name, result in scores.results.items():
        kernel = f"{result.kernel:.4g} ± {result.kernel_deviation:.2g}"
        table.add_row(name, f"{result.distance:.4g}", f"{result.chance:.3g}", kernel, f"{result.generated.count:,}")
        for note in result.notes:  # the first of those that differ in the chance only
            notes.setdefault(note.partition(", here by about")[0], f"note: {note}")
    return _above(table, [line, *notes.values()])


def _above(table: Table, lines: Iterable[str]) -> Group:
    """A table with faint lines below it."""
    return Group(table, *(Text(line, style="dim") for line in lines))


def table_of(*headings: str, text: Collection[str] = (), **options: Any) -> Table:
    """A table on one screen line per row; the first column and those in `text` are on the left."""
    table = Table(**{"padding": 0, "box": box.SIMPLE_HEAD, **options})
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 or heading in text else "right", no_wrap=True)
    return table


def evaluation_table(evaluation: "Evaluation") -> Table:
    """Every score with standard error and number of images; the protocol is the caption."""
    titles = mask_titles(evaluation.protocol)
    columns = {"ARI": "ari", "FG-ARI": "fg_ari", "mIoU": "miou", "mBO": "mbo"} if titles else {"mean": ""}
    columns |= {"mBO class": "mbo_class"} if "mbo_class" in evaluation.masks else {}
    errors = {"mse_sum": "MSE (sum)", "mse": "MSE (mean)", "psnr": "PSNR (dB)", "feature_error": "feature error"}
    caption = {"caption": protocol_line(evaluation.protocol), "caption_justify": "left", "caption_style": "dim"}
    table = table_of("", *columns, "n", **caption)
    for title, scores in {**evaluation.segmentation, **evaluation.baselines}.items():
        lines = {titles.get(title, title): scores, "  best annotator": evaluation.best_annotator.get(title)}
        for name, found in lines.items():
            if found:
                cells = [_cell(found[key], 3) if key in found else "" for key in columns.values()]
                cells = [cell.replace("±0.", "±.") for cell in cells] if len(columns) > 4 else cells  # for 80 columns
                table.add_row(name, *cells, str(found["ari"].count))
    for title, clips in evaluation.video.items():
        cells = [_cell(clips[name], 3) if name in clips else "" for name in columns.values()]
        table.add_row(f"{titles.get(title, title)}, whole clips", *cells, str(clips["ari"].count))
        kept = f"identity {_cell(clips['identity'], 3)}, switches {_cell(clips['switches'], 2)}"
        table.add_row(f"  {kept}", *[""] * (len(columns) + 1))
    if titles and not evaluation.masks:
        table.add_row("no true masks", *["-"] * len(columns), "0")
    table.add_section()
    for name, score in evaluation.reconstruction.items():
        mean = _cell(score, 4 if name in ("mse", "feature_error") else 2)
        table.add_row(errors[name], mean, *[""] * (len(columns) - 1), str(score.count))
    return table


def mask_titles(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the mask sources in the protocol of an evaluation; empty without slots."""
    return {name: source.partition(",")[0] for name, source in protocol.get("mask_sources", {}).items()}


def protocol_line(protocol: dict[str, object]) -> str:
    """Data, split, crop, resolution, images, slots and definitions in one line."""
    shown = ("data", "split", "crop", "resolution", "mask_resolution", "images", "ignore", "min_area", "annotator")
    shown += ("max_objects", "frames", "stride", "slots", "merged", "iterations", "tracking", "slot_seed", "miou")
    shown += ("autoencoder", "latent_shape", "sampler", "sampling_steps", "guidance", "weights")
    shown += ("broken",) if protocol.get("broken") else ()
    shown += ("supersample",) if protocol.get("supersample", 1) != 1 else ()
    return "protocol: " + ", ".join(f"{key} {protocol[key]}" for key in shown if key in protocol)


HEALTHY = {  # each number of a diagnosis: what is healthy, and what it means
    "slots used": ("objects + 1", "slots that own more than 0.5 % of an image; about 1: collapsed"),
    "mask entropy": ("below 0.15", "0: each pixel belongs to one slot; 1: all slots share it evenly"),
    "attention change": ("last below 0.1", "share of the attention that changes its slot in each later iteration"),
    "likeness": ("below 0.3", "ARI between segmentations of different images; near 1, masks ignore the image (tiling)"),
    "background slots": ("1", "slots that own more than a tenth of the true background each"),
    "dead slots": ("none", "slots that own more than 0.5 % of no image at all"),
    "duplicate slots": (
        "below 1",
        "pairs of slots per image that hold the same thing; those named do in so many images",
    ),
}


def explained(numbers: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, value, what is healthy and meaning of each known number of `Diagnosis.numbers()`.

    docs/diagnostics.md has the sources.
    """
    pairs = "".join(f"; {one} and {other}: {share:.0%}" for one, other, share in numbers["duplicate_pairs"])
    values = {
        "slots used": f"{numbers['slots_used']:.2f} of {len(numbers['slot_use'])}",
        "mask entropy": f"{numbers['mask_entropy']:.3f}",
        "attention change": ", ".join(f"{change:.3f}" for change in numbers["attention_changes"]),
        "likeness": f"{numbers['likeness']:.3f}" if "likeness" in numbers else "",
        "background slots": f"{numbers['background_slots']:.2f}" if "background_slots" in numbers else "",
        "dead slots": ", ".join(map(str, numbers["dead_slots"])) or "none",
        "duplicate slots": f"{numbers['duplicates']:.2f}{pairs}",
    }
    healthy = {name: words for name, (words, _) in HEALTHY.items()}
    if "objects" in numbers:
        healthy["slots used"] = f"near {numbers['objects'] + 1:.2f}, objects + 1"
    if "true_likeness" in numbers:
        healthy["likeness"] = f"near {numbers['true_likeness']:.2f}, the true masks'"
    return [(name, values[name], healthy[name], meaning) for name, (_, meaning) in HEALTHY.items() if values[name]]


def diagnosis_table(numbers: Mapping[str, Any], caption: str) -> Table:
    """The numbers of a diagnosis for the terminal."""
    headings = ("", "value", "healthy", "what it is")
    table = Table(*headings, box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", caption_style="dim")
    for row in explained(numbers):
        table.add_row(*row)
    return table


def released_table() -> Group:
    """The bundled models: size and scores, and below the data and the cost of training."""
    framed = {"title": "trained models: slotlab.load(NAME)", "title_justify": "left", **FRAMED}
    table, lines = table_of("name", "pixels", "MB", "masks", "ARI", "FG-ARI", text=("masks",), **framed), []
    for name in released_names():
        folder = model_folder(name)
        facts = released_facts(folder)
        metrics, training, protocol = facts["metrics"], facts["training"], facts["metrics"]["protocol"]
        first = (name, f"{protocol['resolution']}²", f"{size_of(folder) / 1e6:.1f}")
        for source, title in mask_titles(protocol).items():
            scores = [f"{metrics[source][key]:.3f}" for key in ("ari", "fg_ari")]
            table.add_row(*first, title, *scores)
            first = ("", "", "")
        if first[0]:  # an autoencoder
            table.add_row(*first, "none", "", "")
        made = "trained" if any("steps" in run for run in training["runs"]) else "not trained; statistics taken"
        machines = re.sub(r"\b1 threads\b", "1 thread", machines_of(training))
        lines.append(
            f"{name}: scored on {protocol['data']}, {protocol['images']:,} images of split {protocol['split']}; "
            f"{made} in {training['seconds'] / 60:.0f} minutes in all on {machines}; {folder / CARD_FILE}"
        )
    lines.append("licence of the weights: Apache-2.0, as slotlab")
    return _above(table, lines)


def preset_table() -> Table:
    """Every preset with its size and what it is for."""
    framed = {"title": "presets: slotlab train NAME --out RUN", "title_justify": "left", **FRAMED}
    table = table_of("preset", "pixels", "slots", "steps", **framed)
    table.add_column("for", overflow="fold")
    for name in preset_names():
        preset = read_preset(name)
        model, steps = preset["model"], f"{preset['training']['steps']:,}"
        slots = str(model.get("slot_attention", {}).get("slots", "-"))
        table.add_row(name, f"{model['resolution']}²", slots, steps, preset["summary"])
    return table


def _cell(score: "Score", digits: int) -> str:
    error = f"±{score.standard_error:.{digits}f}" if math.isfinite(score.standard_error) else ""  # none of one image
    return f"{score.mean:.{digits}f}{error}"

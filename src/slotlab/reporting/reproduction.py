"""The report that slotlab began with, reproduced: one HTML page, numbers side by side."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from slotlab import checkpoints
from slotlab.composition.compositions import compose, image_path
from slotlab.composition.library import PICTURE_FILE, SLOTS_FILE, ConceptLibrary, fit_library
from slotlab.composition.scoring import SCORES_FILE, score_compositions
from slotlab.config import RUN_FILE, RunConfig, dotted, read_run_config
from slotlab.data import open_data
from slotlab.data.images import read_image
from slotlab.evaluation import batch_output, evaluate
from slotlab.fidelity import FeatureNet
from slotlab.figures.composition import concept_figure, contact_sheet
from slotlab.figures.grid import Cell, Heading, grid, write_png
from slotlab.files import read_json, replacing
from slotlab.models import Model, SlotDiffusion
from slotlab.models.building import fingerprint
from slotlab.progress import Stage, in_steps, stage
from slotlab.reporting.report import rendered, validation_batch
from slotlab.reporting.sections import (
    SHEET_PICTURE,
    ReportFigure,
    ReportTable,
    Section,
    composition_section,
    concept_section,
    curves,
    image_sections,
    scores,
)
from slotlab.reporting.tables import mask_titles
from slotlab.training.checkpoint import TRAINING_FILE, weights_of

CONCEPTS, COMPOSITIONS = "concepts", "compositions"  # folders in a run
COLUMNS, MOST, SHOWN_WITH_PARTS = 8, 24, 6  # of the compositions shown
CELL = 112


class Published(NamedTuple):
    """One of the report's two systems, on CLEVRTex at 128x128.

    Attributes:
        title: of its part of the report.
        source: the source of the masks that it scored.
        chapters: numbers of its sections: parameters, training and outputs, composition.
        settings: its final parameters: name in the report, value, and dotted name in a config.
    """

    title: str
    source: str
    chapters: tuple[str, str, str]
    ari: float
    fg_ari: float
    fid: float
    settings: Sequence[tuple[str, int, str]]


SLOTS = (
    ("Slot_channel_dimension", 64, "slot_attention.dim"),
    ("Projection_dimension", 64, "slot_attention.projection_dim"),
    ("mlp_slot_dimension", 128, "slot_attention.mlp_dim"),
    ("number_of_slots", 11, "slot_attention.slots"),
    ("number_of_slot_iterations", 3, "slot_attention.iterations"),
    ("images_resolution", 128, "resolution"),
)
PUBLISHED = {
    "slot-autoencoder": Published(
        "Object-Centric Learning With Slot Attention",
        "masks",
        ("1.3.1", "1.5", "1.6"),
        0.681,
        0.7472,
        235.68,
        (*SLOTS, ("Decoder_channel_dimension", 64, "decoder.channels")),
    ),
    SlotDiffusion.kind: Published(
        "Slot Learning using Diffusion based Decoder",
        "attention",
        ("2.3.1", "2.4", "2.5"),
        0.221,
        0.684,
        179.90,
        (
            ("dim_time", 128, "denoiser.time_dim"),
            ("diffusion_time", 1000, "schedule.steps"),
            ("num_channel", 64, "denoiser.channels"),
            ("num_repeat", 6, "denoiser.num_repeat"),
            ("dim_slot", 64, "slot_attention.dim"),
            ("dim_head", 32, "denoiser.head_dim"),
        ),
    ),
}


class Measure(NamedTuple):
    """A number of the report beside ours on a card; `top` is the end of its bars, 0: none."""

    name: str
    report: float
    here: float
    top: float
    digits: int
    note: str = ""


@in_steps
def measure(
    run: Path, counts: Mapping[str, int], network: FeatureNet, device: str | torch.device = "cpu"
) -> Generator[Stage, None, None]:
    """Measures a run as the report does; what an earlier call finished is kept.

    Writes the scores of test images, a concept library of training images, and as many compositions
    (one member of each concept) as validation images, which they are compared with.

    Args:
        run: the run's folder.
        counts: most images of the run's data in each split, by its name.
        network: of the distance.
        device: where the model runs.

    Yields:
        (what is done, images done, images in all).
    """
    model: Any = checkpoints.load(run, device)
    data = read_run_config(run / RUN_FILE).data
    options = ("min_objects", "max_objects", "supersample") if data.source.startswith("scenes:") else ("crop",)
    same = {"resolution": model.resolution, **data.model_dump(include={*options})}
    images = {split: open_data(data.source, split=split, count=count, **same) for split, count in counts.items()}
    concepts, composed, weights, count = run / CONCEPTS, run / COMPOSITIONS, weights_of(run), len(images["val"])
    if not (run / "metrics.json").is_file():
        steps = evaluate.steps(model, images["test"], weights=weights, baselines=True)
        (yield from stage("scoring", len(images["test"]), steps)).write(run / "metrics.json")
    if not (concepts / SLOTS_FILE).is_file():
        yield from stage("grouping slots", len(images["train"]), fit_library.steps(model, images["train"], concepts))
    library = ConceptLibrary.load(concepts, model)
    if not (concepts / PICTURE_FILE).is_file():
        write_png(concept_figure(model, library, images["train"]), concepts / PICTURE_FILE)
    if not (composed / SCORES_FILE).is_file():
        yield from stage("composing", count, compose.steps(model, library, composed, count=count, weights=weights))
        sheet = contact_sheet(model, library, images["train"], composed, count=min(SHOWN_WITH_PARTS, count))
        write_png(sheet, composed / SHEET_PICTURE)
        yield from score_compositions.steps(model, library, composed, images["val"], network)


def write_reproduction(
    page: str | Path,
    runs: Sequence[str | Path],
    *,
    before: Sequence[str | Path] = (),
    images: int = 4,
    device: str | torch.device = "cpu",
) -> Path:
    """Writes one HTML page laid out like the report that slotlab began with.

    Args:
        page: the file to write.
        runs: the run of slot attention and the one of slot diffusion, after `measure`.
        before: other runs whose training counts, such as those that `runs` began from.
        images: how many of the first validation images to show.
        device: where the models run.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: a file of a run is missing or damaged.
        DataError: the data of a run is missing.
    """
    sections, cards = [], []
    facts: dict[str, None] = {}
    for number, run in enumerate(map(Path, runs), start=1):
        config, model = read_run_config(run / RUN_FILE), checkpoints.load(run, device)
        published = PUBLISHED[model.kind]
        metrics = read_json(run / "metrics.json", "re-run the same command to resume")
        composed = read_json(run / COMPOSITIONS / SCORES_FILE, "re-run the same command to resume")
        facts |= dict.fromkeys([f"trained on {config.data.source}", f"{model.resolution}×{model.resolution} pixels"])
        cards.append((f"{number} {published.title}", _measures(published, metrics, composed)))
        sections.append(Section(f"{number} {published.title}"))
        sections += _part(run, published, model, config, metrics, composed, images, device)
    remedy = "re-run the same command to resume"
    trained = {*map(Path, runs), *map(Path, before)}
    minutes = sum(read_json(run / TRAINING_FILE, remedy)["seconds"] for run in trained) / 60
    shown = [*facts, f"{minutes:,.0f} minutes of training"]
    html = rendered(
        "reproduction.html.jinja",
        title="Object-centric learning, reproduced",
        facts=shown,
        cards=cards,
        sections=sections,
    )
    with replacing(page) as path:
        path.write_text(html, encoding="utf-8")
    return Path(page)


def _measures(published: Published, metrics: dict[str, Any], composed: dict[str, Any]) -> list[Measure]:
    found, name = metrics.get(published.source) or {}, composed["protocol"]["distance"]
    distance, note = composed["report"]["distance"], "lower is better"
    top = max(published.fid, distance)
    if name != "FID":
        top, note = 0, f"here {name}, by another network: not comparable"
    masks = mask_titles(metrics["protocol"])[published.source]
    nan = float("nan")
    return [
        Measure("ARI", published.ari, found.get("ari", nan), 1, 3, f"higher is better; {masks}"),
        Measure("Foreground ARI", published.fg_ari, found.get("fg_ari", nan), 1, 3, f"higher is better; {masks}"),
        Measure("clean-FID of compositions", published.fid, distance, top, 1, note),
    ]


def _part(
    run: Path,
    published: Published,
    model: Model,
    config: RunConfig,
    metrics: dict[str, Any],
    composed: dict[str, Any],
    images: int,
    device: str | torch.device,
) -> list[Section]:
    """The sections of one system, in the report's order and with its numbers."""
    settings, outputs, composition = published.chapters
    batch = validation_batch(config, None, images, device)
    output: Any = batch_output(model, batch, config.training.seed)
    seen = image_sections(batch["image"].cpu(), output, batch["mask"].cpu() if "mask" in batch else None)
    shown = {section.title: section for section in seen}
    count = sum(parameter.numel() for parameter in model.parameters())
    own = dotted(model.config)
    rows = [[name, str(value), str(own.get(key, "–"))] for name, value, key in published.settings]
    whole = scores(metrics, "")
    titles = mask_titles(metrics["protocol"])
    scored = [["report", f"{published.ari}", f"{published.fg_ari}"]]
    for source, title in titles.items():
        scored.append([f"here: {title}", *(_three(metrics.get(source, {}).get(name)) for name in ("ari", "fg_ari"))])
    for title, of in metrics.get("baselines", {}).items():
        scored.append([f"baseline: {title}", *(_three(of[name]["mean"]) for name in ("ari", "fg_ari"))])
    side_by_side = ReportTable(
        "Adjusted Rand index of all pixels, and of the pixels of objects", ["", "ARI", "FG-ARI"], scored
    )
    made_by = fingerprint(model)
    concepts, sheet = concept_section(run / CONCEPTS, made_by), composition_section(run / COMPOSITIONS, made_by)
    name, real = (composed["protocol"][key] for key in ("distance", "real"))
    distances = [["report", f"{published.fid} (FID)", "10,000"]]
    distances += [
        [f"here: {title}", f"{found['distance']:.1f}", f"{found['generated']['count']:,}"]
        for title, found in composed.items()
        if title != "protocol"
    ]
    fid = f"Distances ({name}) to {real['images']:,} images of {real['data']}, split {real['split']}"
    painted = _compositions(run / COMPOSITIONS, composed["protocol"]["composition"]["count"])
    parts = [
        Section(
            f"{settings} Finalized parameters",
            f"{count:,} parameters in all. Preset {config.preset}; the run's folder is {run}.",
            tables=[ReportTable("", ["", "report", "here"], rows)],
        ),
        curves(run, output.titles["masks"])._replace(title=f"{outputs}.1 Training loss curves"),
        Section(
            f"{outputs}.2 Adjusted Rand index (ARI) score", whole.text, whole.warnings, [side_by_side, *whole.tables]
        ),
        shown["Images and reconstructions"]._replace(title=f"{outputs}.3 Visualizing generated outputs"),
        shown["Slots"]._replace(title=f"{outputs}.4 Slots, raw and thresholded"),
        shown["Attention"]._replace(title=f"{outputs}.5 Attention map visualization"),
        Section(
            f"{composition}.1 Generated outputs using K-means",
            f"{concepts.text}\n\n{sheet.text}",
            tables=concepts.tables,
            figures=[*painted, *sheet.figures, *concepts.figures],
        ),
        Section(
            f"{composition}.2 Clean-FID metric score",
            "Compositions against real images. Reconstructions of real images are the floor that the decoder sets; "
            "shuffled slots, which use no concepts, are the baseline.",
            tables=[ReportTable(fid, ["", name, "images"], distances)],
        ),
    ]
    return [part._replace(level=3) for part in parts]


def _compositions(folder: Path, count: int) -> list[ReportFigure]:
    """The first compositions in a folder, as they are."""
    cells = []
    for number in range(min(MOST, count)):
        image = Image.fromarray(read_image(image_path(folder, number)))
        cells.append(Cell(image.resize((CELL, CELL), Image.Resampling.BICUBIC)))
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    figure = grid(rows, [Heading("")] * min(COLUMNS, len(cells)))
    return [ReportFigure(figure, f"{len(cells)} compositions", "The first compositions, not chosen by their looks")]


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

"""The report of a run: one HTML file with everything in it, to open offline or mail."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import slotlab
from slotlab import checkpoints
from slotlab.config import RUN_FILE, RunConfig, read_run_config
from slotlab.data import Batch
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.evaluation import Evaluation, batch_output
from slotlab.figures.grid import data_uri
from slotlab.files import read_json, replacing
from slotlab.models import SlotOutput
from slotlab.models.building import fingerprint
from slotlab.reporting.sections import (
    Section,
    composition_section,
    concept_section,
    curves,
    diagnosis_section,
    image_sections,
    origin,
    preview_history,
    scores,
)
from slotlab.reporting.tables import evaluate_command
from slotlab.training.checkpoint import TRAINING_FILE
from slotlab.training.setup import open_split

REPORT_FILE = "report.html"
MOST_IMAGES = 64


def write_report(
    run_folder: str | Path,
    *,
    data: str | Path | None = None,
    images: int = 8,
    evaluation: Evaluation | None = None,
    library: str | Path | None = None,
    compositions: Sequence[str | Path] = (),
    device: str | torch.device = "cpu",
) -> Path:
    """Writes `report.html` into a run folder: scores, figures of validation images, curves.

    Args:
        run_folder: what `slotlab train --out` wrote.
        data: where the run's data is now, if it was moved, as `slotlab.open_data` takes it.
        images: how many of the first validation images to show, 1 to 64.
        evaluation: the scores to show; by default those in the run's `metrics.json`, if any.
        library: a concept library of the run to show.
        compositions: folders that `slotlab compose` wrote, to show with their scores.
        device: where the model runs.

    Returns:
        The path of the report.

    Raises:
        CheckpointError: the folder is no run, a file in it is damaged, or the library or a
            composition is of another model.
        ConfigError: `images` is out of range.
        DataError: the run's data is missing or broken.
    """
    run = Path(run_folder)
    if not 1 <= images <= MOST_IMAGES:
        raise ConfigError(f"images={images}: expected 1 to {MOST_IMAGES}")
    model = checkpoints.load(run, device)
    config = read_run_config(run / RUN_FILE)
    training = _if_there(run / TRAINING_FILE, "continue training with --resume to write it again") or {}
    again = evaluate_command(str(run), str(data or config.data.source), config.data.model_dump())
    remedy = f"write it again with: {again}"
    metrics = evaluation.to_json() if evaluation else _if_there(run / "metrics.json", remedy)
    batch = validation_batch(config, data, images, device)
    output = batch_output(model, batch, config.training.seed)
    with _readable(run / "metrics.json", remedy):
        scored = scores(metrics, again)
        numbers = (metrics or {}).get("diagnostics")
        diagnosis = diagnosis_section(numbers) if numbers else None
    made_by = fingerprint(model)
    sections = [
        scored,
        *image_sections(batch["image"].cpu(), output, batch["mask"].cpu() if "mask" in batch else None),
        diagnosis,
        curves(run, output.titles.get("masks", "")),
        preview_history(run),
        concept_section(Path(library), made_by) if library is not None else None,
    ]
    for folder in compositions:
        with _readable(Path(folder), "compose it again"):
            sections.append(composition_section(Path(folder), made_by))
    sections.append(origin(config.model_dump(mode="json"), training))
    facts = [config.preset, *([f"{steps:,} steps"] if isinstance(steps := training.get("steps"), int) else [])]
    facts += [f"trained on {config.data.source}", f"{model.resolution}×{model.resolution}"]
    facts += [f"{model.slots} slots"] if isinstance(output, SlotOutput) else []
    shown = [section for section in sections if section]
    html = render_report(run.resolve().name, facts, model.kind, shown)
    with replacing(run / REPORT_FILE) as path:
        path.write_text(html, encoding="utf-8")
    return run / REPORT_FILE


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    """Encloses what reads the content of a file that others wrote."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); {remedy}") from error


def render_report(title: str, facts: Sequence[str], kind: str, sections: Sequence[Section]) -> str:
    """The HTML of a report of a `kind` of model: complete, without scripts; all text is escaped."""
    return rendered("report.html.jinja", title=title, facts=facts, kind=kind, sections=sections)


def rendered(template: str, **content: Any) -> str:
    """The HTML that a template of this folder makes of `content`; all text is escaped."""
    environment = templates(Path(__file__).parent, autoescape=True)  # its name ends in .jinja
    environment.filters |= {
        "data_uri": data_uri,
        "paragraphs": lambda text: [p for p in text.split("\n\n") if p.strip()],
    }
    return environment.get_template(template).render(content, version=slotlab.__version__)


def templates(folder: Path, **options: Any) -> Environment:
    """The templates in a folder; a variable that is missing is an error."""
    loader = FileSystemLoader(folder)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)


def validation_batch(config: RunConfig, data: str | Path | None, images: int, device: str | torch.device) -> Batch:
    """The first validation images of a run, of `data` if they were moved there."""
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": str(data)})})
    try:
        dataset = open_split(config, "val", device=device)
        return dataset.batch(range(min(images, len(dataset))))
    except DataError as error:
        raise DataError(
            f"{error}. The report shows validation images of {config.data.source}; if it was moved, name it with --data"
        ) from error


def _if_there(path: Path, remedy: str) -> dict[str, Any] | None:
    return read_json(path, remedy) if path.is_file() else None

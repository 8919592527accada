"""The report of a run: one HTML file with everything in it, to open offline, mail, or keep beside the weights."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import slotlab
from slotlab import hub
from slotlab.atomic import replacing
from slotlab.composition.fingerprint import fingerprint
from slotlab.data import Batch
from slotlab.errors import CheckpointError, ConfigError, DataError
from slotlab.evaluation import Evaluation
from slotlab.models import SlotOutput
from slotlab.presets.config import RUN_FILE, RunConfig, read_run_config
from slotlab.reporting import contents
from slotlab.reporting.commands import evaluate_command
from slotlab.reporting.composition_sections import composition_section, concept_section
from slotlab.reporting.diagnosis import diagnosis_section
from slotlab.reporting.previews import outputs
from slotlab.reporting.section import Section
from slotlab.training.checkpoint import TRAINING_FILE
from slotlab.training.datasets import open_split

REPORT_FILE = "report.html"
TEMPLATE = "report.html.jinja"
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
    """Writes `report.html` into a run folder: scores, pictures of validation images, curves, and how it was made.

    Args:
        run_folder: what `slotlab train --out` wrote.
        data: where the run's data is now, if not where it was; any spec that `slotlab.open_data` takes.
        images: how many images of the validation split to show, 1 to 64: its first.
        evaluation: the scores to show; by default those in the folder's `metrics.json`, if it is there.
        library: a concept library of the run to show.
        compositions: folders that `slotlab compose` wrote, to show with their scores.
        device: where the model runs.

    Returns:
        The path of the report.

    Raises:
        CheckpointError: the folder is no run, a file in it is missing or damaged, or the library or a composition is of
            another model.
        ConfigError: `images` is out of its range.
        DataError: the run's data is missing or broken.
    """
    run = Path(run_folder)
    if not 1 <= images <= MOST_IMAGES:
        raise ConfigError(f"images={images}: expected 1 to {MOST_IMAGES}")
    model = hub.load(run, device)
    config = read_run_config(run / RUN_FILE)
    training = _read_json(run / TRAINING_FILE, "train on with --resume to write it anew") or {}
    again = evaluate_command(str(run), str(data or config.data.source), config.data.model_dump())
    if evaluation is not None:
        metrics: dict[str, Any] | None = evaluation.to_json()
    else:
        metrics = _read_json(run / "metrics.json", f"write it anew with: {again}")
    batch = _validation_batch(config, data, images, device)
    output = outputs(model, batch, config.training.seed)
    pictures, mask = batch["image"].cpu(), batch["mask"].cpu() if "mask" in batch else None
    sections = [contents.scores(metrics, again), contents.reconstructions(pictures, output, mask)]
    if isinstance(output, SlotOutput):
        sections += [part(pictures, output, mask) for part in (contents.slots, contents.attention)]
        sections += [contents.segmentations(pictures, output, mask)]
    diagnostics = (metrics or {}).get("diagnostics")
    made_by = fingerprint(model)
    sections += [
        diagnosis_section(diagnostics) if diagnostics else None,
        contents.curves(run, config.preset, output.titles.get("masks", "")),
        contents.preview_history(run),
        concept_section(Path(library), made_by) if library is not None else None,
        *(composition_section(Path(folder), made_by) for folder in compositions),
        contents.origin(config.model_dump(mode="json"), training),
    ]
    facts = [f"{training['steps']:,} steps"] if isinstance(training.get("steps"), int) else []
    facts += [f"trained on {config.data.source}", f"{model.resolution}×{model.resolution}"]
    facts += [f"{model.slots} slots"] if isinstance(output, SlotOutput) else []
    html = render_report(
        config.preset, facts, contents.HOW_TO_READ[model.kind], [section for section in sections if section]
    )
    with replacing(run / REPORT_FILE) as path:
        path.write_text(html, encoding="utf-8")
    return run / REPORT_FILE


def render_report(title: str, facts: Sequence[str], introduction: str, sections: Sequence[Section]) -> str:
    """The HTML of a report: complete in itself, without scripts; all text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # by name it would not be: the template does not end in .html
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["paragraphs"] = lambda text: [part for part in text.split("\n\n") if part.strip()]
    template = environment.get_template(TEMPLATE)
    return template.render(
        title=title, facts=facts, introduction=introduction, sections=sections, version=slotlab.__version__
    )


def data_uri(image: Image.Image) -> str:
    """A picture as the `src` of an `img`."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _validation_batch(config: RunConfig, data: str | Path | None, images: int, device: str | torch.device) -> Batch:
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": str(data)})})
    try:
        dataset = open_split(config, "val", device=device)
        return dataset.batch(range(min(images, len(dataset))))
    except DataError as error:
        raise DataError(
            f"{error}. The report shows validation images of {config.data.source}; "
            f"if that data lies elsewhere now, say where with --data"
        ) from error


def _read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """A JSON object, or None if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object; {remedy}")
    return content

"""The card of a released model: what it is, its scores and pictures, and the exact way to make it again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import safe_open

import slotlab
from slotlab.hub import WEIGHTS_FILE
from slotlab.models import LatentAutoencoder, SlotAutoencoder, SlotDiffusion
from slotlab.released import CARD_FILE, LIBRARY_FOLDER, machines_of, released_facts
from slotlab.reporting.commands import evaluate_command
from slotlab.reporting.tables import mask_titles, protocol_line

TEMPLATE = "card.md.jinja"
EXAMPLES_FILE = "examples.json"
WHAT_IT_IS = {
    SlotAutoencoder.kind: "Slot Attention with a spatial broadcast decoder "
    "([Locatello et al. 2020](https://arxiv.org/abs/2006.15055))",
    SlotDiffusion.kind: "Slot diffusion: Slot Attention, and a latent diffusion model that paints the slots "
    "([Wu et al. 2023](https://arxiv.org/abs/2305.11281)); its autoencoder is in the same file",
    LatentAutoencoder.kind: "An autoencoder whose latents slot diffusion paints in",
}


def write_card(folder: Path, name: str) -> None:
    """Writes `card.md` into a folder that holds all else, for a model that `slotlab.load` knows as `name`."""
    facts = released_facts(folder)
    config, metrics, training = facts["config"], facts["metrics"], facts["training"]
    library = folder / LIBRARY_FOLDER / "library.json"
    data = [run["train_data"] for run in training["runs"] if "train_data" in run]
    learned_from = [described.get("source", described) for described in data]
    unknown = [run["out"] for run in training["runs"] if "train_data" not in run]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["score"] = _score
    text = environment.get_template(TEMPLATE).render(
        name=name,
        what=WHAT_IT_IS[config["kind"]],
        config=config,
        metrics=metrics,
        titles=mask_titles(metrics["protocol"]),
        protocol=protocol_line(metrics["protocol"]).removeprefix("protocol: "),
        evaluate_command=evaluate_command(name, training.get("data", metrics["protocol"]["data"]), metrics["protocol"]),
        learned_from=list(dict.fromkeys(data["data"] for data in learned_from)),
        unknown=unknown,
        rendered=not unknown and all(data["kind"] == "scenes" for data in learned_from),
        examples=json.loads((folder / EXAMPLES_FILE).read_text(encoding="utf-8")),
        library=json.loads(library.read_text(encoding="utf-8")) if library.is_file() else None,
        runs=training["runs"],
        minutes=training["seconds"] / 60,
        machines=machines_of(training),
        parameters=_parameters(folder / WEIGHTS_FILE),
        megabytes=(folder / WEIGHTS_FILE).stat().st_size / 1e6,
        version=slotlab.__version__,
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds."""
    total = 0
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            size = 1
            for side in file.get_slice(name).get_shape():
                size *= side
            total += size
    return total


def _score(details: Mapping[str, Any], digits: int = 3) -> str:
    return f"{details['mean']:.{digits}f} ± {details['standard_error']:.{digits}f}"

"""The numbers of `slotlab diagnose` for several models, for docs/diagnostics.md.

    python benchmarks/diagnostics.py runs/slots runs/diffusion --untrained scenes-64 --max-objects 6

Protocol. The first `--images` test images; initial slots from seed 0; masks of the source that fits
objects better. A name after `--untrained` is a preset, whose model has random weights from seed 0:
what the numbers are when nothing was learned.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import slotlab
from slotlab.evaluation import diagnose
from slotlab.models import with_slots

SHOWN = ("slots_used", "objects", "mask_entropy", "attention_changes", "likeness", "true_likeness")
SHOWN += ("background_slots", "dead_slots", "duplicates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="folders of models with slots")
    parser.add_argument("--untrained", nargs="*", default=[], help="presets")
    parser.add_argument("--data", default="scenes:plain")
    parser.add_argument("--max-objects", type=int, help="for scenes")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all numbers here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scene_options = {} if options.max_objects is None else {"max_objects": options.max_objects}
    models = {Path(run).name: with_slots(slotlab.load(run)) for run in options.runs}
    for preset in options.untrained:
        torch.manual_seed(0)
        models[f"{preset}, untrained"] = with_slots(slotlab.create_model(preset))
    found: dict[str, dict[str, Any]] = {}
    table = Table(title=f"{options.images} images of {options.data}, split test")
    table.add_column("")
    for name, model in models.items():
        data = slotlab.open_data(
            options.data, split="test", resolution=model.resolution, count=options.images, **scene_options
        )
        diagnosis = diagnose(model, data)
        found[name] = {"mask_source": model.finer_masks, **diagnosis.numbers(), "warnings": diagnosis.warnings()}
        table.add_column(name, justify="right")
    for number in SHOWN:
        table.add_row(number, *(shown(numbers.get(number)) for numbers in found.values()))
    Console().print(table)
    for name, numbers in found.items():
        for warning in numbers["warnings"]:
            print(f"{name}: {warning}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def shown(value: Any) -> str:
    """A number with three digits, or a list of them."""
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

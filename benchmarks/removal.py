"""Whether a removed object is gone, against the same scene rendered without it.

    python benchmarks/removal.py scenes-64 scenes-64-diffusion --scenes 100

Protocol. Of the first `--scenes` test scenes each object that a slot found (intersection over union
of at least 0.5 with its mask, by the masks that fit objects best, and not by the background's slot)
is removed: its slot is left out and the rest painted by `paint_edit`, seed 0. The truth is the
scene rendered without that object and its shadow. Errors are mean squared errors of values in [0,
1], mean over objects: `before`, of the unedited painting, and `after`, in the object's mask;
`behind` is `after` where another object was behind it (of objects with at least 8 such pixels);
`elsewhere`, of the edited painting in all other pixels. `gone`: the share of objects whose error in
the mask became less than half of what it was. "the other slots": what they paint by themselves.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from contest import save
from rich.console import Console
from rich.progress import track
from torch import Tensor

import slotlab
from slotlab.composition import edits
from slotlab.composition.edits import Scene, background_slot, paint_edit, read_scene
from slotlab.models import PaintingModel, that_paints
from slotlab.models.building import evaluating
from slotlab.models.sampling import seeded_generator

FOUND = 0.5
BEHIND = 8  # pixels
COLUMNS: tuple[str, ...] = ("model", "painted_by", "objects", "found", "gone", "before", "after", "behind", "elsewhere")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or folders of models with slots")
    parser.add_argument("--variant", default="plain")
    parser.add_argument("--max-objects", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row for name in options.models for row in removals(Path(name).name, that_paints(slotlab.load(name)), options)
    ]
    for row in (dict(zip(COLUMNS, COLUMNS, strict=True)), *rows):
        print("".join(f"{row[column]:>{20 if column in COLUMNS[:2] else 10}}" for column in COLUMNS))
    if options.csv:
        save(rows, options.csv, COLUMNS)


def removals(name: str, model: PaintingModel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way of painting."""
    setting = {"variant": options.variant, "max_objects": options.max_objects, "resolution": model.resolution}
    whole = slotlab.render(range(options.scenes), **setting)
    objects, errors = 0, {"paint_edit": [], "the other slots": []}
    for index in track(range(options.scenes), description=name, console=Console(stderr=True)):
        scene = read_scene(model, whole.image[index])
        count = int(whole.metadata[index]["num_objects"])
        objects += count
        rests = slotlab.render([index] * count, **setting, leave_out=range(1, count + 1))
        for number, (rest, objects_left) in enumerate(zip(rests.image, rests.mask, strict=True), start=1):
            there = whole.mask[index] == number
            behind = there & (objects_left > 0)
            slot = finder(scene, there)
            if slot is None:
                continue
            plan = edits.remove(scene, [slot])
            edited = paint_edit(model, scene, plan)
            errors["paint_edit"].append(compared(edited.before, edited.image, rest, there, behind))
            with evaluating(model), torch.no_grad():
                alone = model.generate(plan.slots[None], generator=seeded_generator(0))
            errors["the other slots"].append(compared(edited.before, alone[0], rest, there, behind))
    rows: list[dict[str, Any]] = []
    for painted_by, found in errors.items():
        if found:
            before, after, behind, elsewhere = torch.tensor(found, dtype=torch.float64).unbind(1)
            rows.append(
                {
                    "model": name,
                    "painted_by": painted_by,
                    "objects": objects,
                    "found": len(found),
                    "gone": round(float((after < before / 2).double().mean()), 4),
                    "before": round(float(before.mean()), 5),
                    "after": round(float(after.mean()), 5),
                    "behind": round(float(behind.nanmean()), 5),
                    "elsewhere": round(float(elsewhere.mean()), 5),
                }
            )
    return rows


def finder(scene: Scene, there: Tensor) -> int | None:
    """The slot that found the object whose mask is `there` [R, R]; None if none did."""
    owners = scene.segmentation()
    slot = int(owners[there].mode().values)
    owned = owners == slot
    shared = float((owned & there).sum()) / float((owned | there).sum())
    return slot if shared >= FOUND and slot != background_slot(scene) else None


def compared(before: Tensor, after: Tensor, truth: Tensor, there: Tensor, behind: Tensor) -> tuple[float, ...]:
    """Squared errors of images [3, R, R]: before and after in `there`, in `behind`, elsewhere."""
    error_before, error_after = ((picture - truth).square().mean(dim=0) for picture in (before, after))
    hidden = float(error_after[behind].mean()) if int(behind.sum()) >= BEHIND else math.nan
    return (
        float(error_before[there].mean()),
        float(error_after[there].mean()),
        hidden,
        float(error_after[~there].mean()),
    )


if __name__ == "__main__":
    main()

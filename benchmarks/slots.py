"""What merging slots, and another number of slots than trained with, do to the scores.

    python benchmarks/slots.py --csv benchmarks/results/slots.csv

Scores the masks that fit objects best of bundled models on rendered test scenes: with two slots
fewer, as trained, and with two more, each as they are and merged (`slotlab.models.merge_slots`).
`--sheet PNG` only draws the first test scenes of the last model, before and after.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from contest import save

import slotlab
from slotlab.evaluation import Evaluator, outputs
from slotlab.figures.grid import Cell, Heading, grid, matched_colours, overlay, photograph, true_colours, write_png
from slotlab.models import SlotModel, merge_slots, with_slots

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "scenes-64": ("scenes:plain", {"max_objects": 6}),
    "scenes-64-diffusion": ("scenes:plain", {"max_objects": 6}),
    "textured-128": ("scenes:textured", {"supersample": 2}),
}
CELL, OPACITY = 112, 0.65
COLUMNS = ("model", "data", "images", "masks", "slots", "merged", "used", "objects", "ari", "fg_ari", "miou", "mbo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="test scenes (default: 200)")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="write the rows to this file")
    parser.add_argument("--sheet", type=Path, help="draw scenes into this file, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.sheet:
        name = options.models[-1]
        source, opening = MODELS[name]
        draw(with_slots(slotlab.load(name)), source, opening, options.split, options.sheet)
        return
    rows = []
    for name in options.models:
        source, opening = MODELS[name]
        trained = with_slots(slotlab.load(name))
        data = slotlab.open_data(
            source, split=options.split, resolution=trained.resolution, count=options.count, **opening
        )
        for slots in (trained.slots - 2, trained.slots, trained.slots + 2):
            model = with_slots(slotlab.create_model(name, pretrained=True, slots=slots))
            each = {merged: Evaluator(model, data) for merged in (False, True)}
            for batch, output in outputs(model, data):
                for merged, evaluator in each.items():
                    evaluator.update(batch, merge_slots(output, model.finer_masks) if merged else output)
            for merged, evaluator in each.items():
                found = evaluator.compute()
                scores = {key: f"{score.mean:.3f}" for key, score in found.segmentation[model.finer_masks].items()}
                row = {"model": name, "data": source, "images": options.count, "masks": model.finer_masks}
                row |= {"slots": slots, "merged": merged, "used": f"{found.slots_used:.2f}"}
                row |= {"objects": f"{found.diagnostics['objects']:.2f}", **scores}
                rows.append({column: row[column] for column in COLUMNS})
                print(*rows[-1].values(), flush=True)
    if options.csv:
        save(rows, options.csv, COLUMNS)


def draw(model: SlotModel, source: str, opening: dict[str, Any], split: str, path: Path, count: int = 8) -> None:
    """Draws scenes, their true objects, and the masks before and after merging, two in a row."""
    data = slotlab.open_data(source, split=split, resolution=model.resolution, count=count, **opening)
    (batch, output), *_ = outputs(model, data)
    assert "mask" in batch
    found = [one.segmentation(model.finer_masks) for one in (output, merge_slots(output, model.finer_masks))]
    cells, size = [], (CELL, CELL)
    for image, mask, *owners in zip(batch["image"], batch["mask"], *found, strict=True):
        cells += [Cell(photograph(image, size)), Cell(overlay(image, mask, true_colours(mask), size, OPACITY))]
        for labels in owners:
            colours = matched_colours(labels, mask, range(model.slots))
            cells.append(Cell(overlay(image, labels, colours, size, OPACITY), f"{len(labels.unique())} slots"))
    rows = [cells[start : start + 8] for start in range(0, len(cells), 8)]
    write_png(grid(rows, [Heading(title) for title in ("image", "true objects", "as they are", "merged") * 2]), path)


if __name__ == "__main__":
    main()

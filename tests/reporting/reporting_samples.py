"""What the tests of reporting look at: a tiny run folder as training leaves it."""

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from slotlab import checkpoints
from slotlab.config import DataSettings, RunConfig
from slotlab.models import SlotAutoencoder

SCORE = {"mean": 0.5, "standard_error": 0.01, "count": 4, "degenerate": 1}
NAMES = ("ari", "fg_ari", "miou", "mbo")


def scene(number: int, size: int = 16) -> tuple[Image.Image, Image.Image]:
    """A picture with two squares, and its mask."""
    image, mask = Image.new("RGB", (size, size), (90, 90, 90)), Image.new("L", (size, size), 0)
    for label, (colour, corner) in enumerate({"red": (1, number), "yellow": (9, 8 - number)}.items(), start=1):
        box = (*corner, corner[0] + 4, corner[1] + 4)
        ImageDraw.Draw(image).rectangle(box, fill=colour)
        ImageDraw.Draw(mask).rectangle(box, fill=label)
    return image, mask


def write_data(folder: Path, *, masks: bool = True) -> Path:
    for split in ("train", "val"):
        for number in range(3):
            image, mask = scene(number)
            for kind, picture in (("images", image), ("masks", mask)):
                if masks or kind == "images":
                    path = folder / kind / split / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
    return folder


def tiny_model(kind: type[SlotAutoencoder] = SlotAutoencoder) -> SlotAutoencoder:
    torch.manual_seed(0)
    return kind(
        resolution=16,
        encoder={"kind": "cnn", "channels": 4, "strides": [1, 2, 1, 1]},
        slot_attention={"slots": 3, "dim": 8, "projection_dim": 8, "mlp_dim": 8, "iterations": 2},
        decoder={"kind": "broadcast", "broadcast": 8, "channels": 4},
    )


def metrics_json() -> dict:
    scores, details = dict.fromkeys(NAMES, SCORE["mean"]), dict.fromkeys(NAMES, SCORE)
    errors = {"mse_sum": 120.5, "mse": 0.0423, "psnr": 13.7}
    sources = {"masks": "decoder masks, argmax", "attention": "attention masks, argmax"}
    return {
        "protocol": {"data": "pictures", "split": "val", "images": 4, "mask_sources": sources},
        **{"masks": scores, "attention": scores, "reconstruction": errors, "loss": 0.5, "slots_used": 2.5},
        "details": {
            **{"masks": details, "attention": details},
            "reconstruction": {name: SCORE | {"mean": mean} for name, mean in errors.items()},
        },
        "warnings": ["slots tile the picture"],
    }


def write_run(folder: Path, data: Path, preset: str = "tiny", command: str = "slotlab train tiny", **options) -> Path:
    """A run folder; `history` gives it a history.csv, `kind` a model of another kind."""
    model = tiny_model(options.get("kind", SlotAutoencoder))
    checkpoints.save(model, folder)
    config = RunConfig(preset=preset, model=model.config, data=DataSettings(source=str(data)))
    (folder / "run.json").write_text(config.model_dump_json())
    (folder / "training.json").write_text(json.dumps({"preset": preset, "steps": 1200, "command": command}))
    (folder / "metrics.json").write_text(json.dumps(metrics_json()))
    if options.get("history"):
        (folder / "history.csv").write_text(
            "step,epoch,seconds,train_loss,validation_loss,ari,fg_ari\n100,1,10,0.9,0.8,0.1,0.2\n200,2,20,0.5,0.4,,0.3\n"
        )
    (folder / "previews").mkdir()
    for step in (100, 200, 300, 400):
        Image.new("RGB", (8, 8), (step // 2, 0, 0)).save(folder / "previews" / f"step-{step:08d}.png")
    return folder

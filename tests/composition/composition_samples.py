"""Made-up slots, libraries and scenes, and a model whose slots say where they paint."""

import numpy as np
import torch
from torch.nn import functional as F

from slotlab.checkpoints import create_model
from slotlab.composition import ConceptLibrary, SlotTable
from slotlab.composition.edits import Scene
from slotlab.models import SlotOutput


def made_up_table(images=20, slots=5, dim=6, seed=0, dropped=()):
    """Slot 0 of each image is the background; the others are near one of three centres.

    `dropped`: (image, slot) pairs left out. Image numbers are 100 + 3 * position.
    """
    random = np.random.default_rng(seed)
    rows = [(image, slot) for image in range(images) for slot in range(slots) if (image, slot) not in dropped]
    image, number = np.array(rows).T
    kind = random.integers(3, size=len(rows))
    vectors = 10 * np.eye(dim)[kind] + random.normal(scale=0.1, size=(len(rows), dim))
    vectors[number == 0] = -10
    return SlotTable(
        slots=vectors.astype(np.float32),
        position=image,
        index=100 + 3 * image,
        number=number,
        area=np.where(number == 0, 0.6, 0.02).astype(np.float32),
        centre=random.uniform(-0.9, 0.9, (len(rows), 2)).astype(np.float32),
        background=number == 0,
        fill=random.uniform(0.3, 1, len(rows)).astype(np.float32),
        facts={
            "model": {},
            "fingerprint": "0" * 64,
            "data": {"data": "made up", "split": "all", "crop": 1.0, "resolution": 16},
            "seed": 0,
            "slots_per_image": slots,
            "images": images,
            "dropped": len(dropped),
            "rules": {"dropped": "none"},
        },
    )


def made_up_library(concepts=4, **options):
    return ConceptLibrary.fit(made_up_table(**options), concepts=concepts)


def pictures(squares):
    return sorted((squares / "images").glob("*.png"))


def seeded_model(preset, **overrides):
    torch.manual_seed(0)
    return create_model(preset, **overrides).eval()


def output_of(slots, masks):
    """An output of slots [B, K, D] and masks [B, K, R, R], whose attention masks are the same."""
    batch, _, side, _ = masks.shape
    return SlotOutput(slots, masks.flatten(2)[:, None], (side, side), masks, torch.zeros(batch, 3, side, side))


def scene_of(owners, seed=0, width=8):
    """A scene of random slots, in which slot `owners[y][x]` owns a pixel."""
    owners = torch.tensor(owners)
    slots = torch.randn(1, int(owners.max()) + 1, width, generator=torch.Generator().manual_seed(seed))
    masks = F.one_hot(owners, slots.shape[1]).permute(2, 0, 1)[None].float()
    return Scene(torch.zeros(3, *owners.shape), output_of(slots, masks))


def blobs(preset, places, sharpness=100):
    """A model whose slots begin with x, y, width, height and colour, and a scene of such slots.

    A slot's logit falls with the distance from its place in units of its size. The model can also
    move and resize slots.
    """
    model = seeded_model(preset)
    axis = (torch.arange(16) + 0.5) / 16 * 2 - 1

    def decode(slots, *_):
        x, y, width, height = slots[..., :4, None, None].unbind(2)
        masks = (-sharpness * ((axis - x).abs() / width + (axis[:, None] - y).abs() / height)).softmax(dim=1)
        layers = slots[..., 4:7, None, None].expand(*slots.shape[:2], 3, 16, 16)
        return (masks[:, :, None] * layers).sum(dim=1), masks, layers

    model.decode = decode
    model.move = lambda slot, dx, dy: slot + F.pad(torch.tensor([2 * dx, 2 * dy]), (0, len(slot) - 2))
    model.resize = lambda slot, factor: torch.cat([slot[:2], slot[2:4] * factor, slot[4:]])
    slots = torch.tensor([[*place, 0.2 * number, 0.5, 0.5, 0] for number, place in enumerate(places)])[None]
    image, masks, _ = decode(slots)
    return model, Scene(image[0], output_of(slots, masks))

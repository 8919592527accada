"""Slots learned on photographs, several seeds, beside what is not trained: a short development loop.

    python benchmarks/photo_slots.py TRAIN PHOTOS MASKS --cache DIR --seeds 3 --steps 300 [--set KEY=VALUE ...]

Trains the model of the preset `photos-slots` on the features of the photographs in TRAIN, none of
which may be in PHOTOS, and scores its slots on PHOTOS, whose MASKS are as for `photos.py`: centre
squares seen at 448x448, masks of 224x224, averaged over superpixels. With `--teacher` slot
attention also learns the groups of `photos`, with this weight. Features (in bfloat16), superpixels
and groups are kept in DIR. Printed are `photos`, the groups that slots start from, if they do, the
mean of each seed, and mean and standard error over seeds.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from photos import SIDE, segmented
from torch import Tensor
from torch.nn import functional as F

import slotlab
from slotlab.data.folders import find_images
from slotlab.data.images import prepared
from slotlab.metrics.functional import adjusted_rand_index, mean_best_overlap
from slotlab.models import FeatureAutoencoder, FrozenFeatures
from slotlab.models.feature_autoencoder import places_of
from slotlab.models.feature_grouping import spectral_groups
from slotlab.training.objectives import teacher_disagreement

BATCH, FITTED_TO = 32, 512
GROUPS: dict[bytes, Tensor] = {}
SCORES = ("ARI", "FG-ARI", "mBO")


def kept(path: Path, make: Any) -> Tensor:
    """The array in a file, which `make` fills if it is missing."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    return torch.from_numpy(np.load(path))


def features_of(photos: Path) -> np.ndarray:
    """Float16 [n, 196, 192], of Lite0 in bfloat16."""
    network, found = FrozenFeatures(448, precision="bf16"), []
    for file in find_images(photos):
        image, _ = prepared(file, resolution=448)
        found.append(network.raw(image[None])[0].half().numpy())
    return np.stack(found)


def superpixels_of(photos: Path) -> np.ndarray:
    """Int16 [n, 224, 224], as `photos` makes them."""
    from skimage.segmentation import felzenszwalb

    found = []
    for file in find_images(photos):
        image, _ = prepared(file, resolution=448)
        small = F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]
        pixels = (255 * small).round().to(torch.uint8).permute(1, 2, 0).numpy()
        found.append(felzenszwalb(pixels, scale=60, sigma=0.8, min_size=60).astype(np.int16))
    return np.stack(found)


def groups_of(features: Tensor) -> np.ndarray:
    """The soft groups [n, 8, 196] of `photos`."""
    model: Any = slotlab.load("photos")
    units = (F.normalize(model.encoder(None, one[None].float())[0], dim=1) for one in features)
    return np.stack([spectral_groups(one, places_of((14, 14)) / 2, model.slots).numpy() for one in units])


def trained(
    features: Tensor, labels: Tensor | None, steps: int, seed: int, weight: float, changes: dict[str, Any]
) -> FeatureAutoencoder:
    """The model after `steps` updates, with the preset's settings but for their number and `changes`."""
    torch.manual_seed(seed)
    model: Any = slotlab.create_model("photos-slots", **changes).train()
    model.encoder._groups = GROUPS  # the features are the same for each seed
    backbone, generator = model.encoder.backbone, torch.Generator().manual_seed(seed)
    backbone.fit(one.float() for one in features[:FITTED_TO].split(BATCH))
    seen = torch.cat([backbone(None, one.float()) for one in features.split(BATCH)])
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=1e-4)
    warm = steps // 5
    rate = lambda step: min((step + 1) / warm, (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm))) / 2)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    images = torch.zeros(BATCH, 3, 448, 448)  # not looked at: the features are cached
    for _ in range(steps):
        chosen = torch.randint(len(seen), (BATCH,), generator=generator)
        output = model(images, raw=features[chosen].float())
        loss = model.losses(output, images).mean()
        if labels is not None:
            loss = loss + weight * teacher_disagreement(output, labels[chosen].unflatten(1, (14, 14)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def scored(soft: Tensor, pieces: Tensor, true: Tensor) -> list[float]:
    """ARI, FG-ARI and mBO in %, mean over photographs, of soft masks [n, K, 196]."""
    found: list[list[Tensor]] = [[], [], []]
    for maps, parts, target in zip(soft.float(), pieces.long(), true.long(), strict=True):
        large = F.interpolate(maps.unflatten(1, (14, 14))[None], (SIDE, SIDE), mode="bilinear")[0]
        sums = torch.zeros(int(parts.max()) + 1, len(maps)).index_add_(0, parts.flatten(), large.flatten(1).T)
        owners = sums.argmax(1)[parts][None]
        found[0].append(adjusted_rand_index(owners, target[None]))
        found[1].append(adjusted_rand_index(owners, target[None], foreground_only=True))
        found[2].append(mean_best_overlap(owners, target[None]))
    return [100 * float(torch.cat(values).nanmean()) for values in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--teacher", type=float, default=0.0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache: Path = options.cache
    train = kept(cache / "train.npy", lambda: features_of(options.train))
    test = kept(cache / "test.npy", lambda: features_of(options.photos))
    pieces = kept(cache / "superpixels.npy", lambda: superpixels_of(options.photos))

    def truth() -> np.ndarray:
        pairs = segmented(options.photos, options.masks, lambda image: torch.zeros(1), 448, None)
        return np.concatenate([true.short().numpy() for _, true in pairs])

    true = kept(cache / "true.npy", truth)

    def say(title: str, scores: list[float]) -> None:
        print(title, *(f"{name} {value:.1f}" for name, value in zip(SCORES, scores, strict=True)), flush=True)

    with torch.no_grad():
        say("photos", scored(kept(cache / "groups.npy", lambda: groups_of(test)), pieces, true))
    labels = None
    if options.teacher:
        labels = kept(cache / "labels.npy", lambda: groups_of(train).argmax(1).astype(np.int16)).long()
    rows, changes = [], {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.set)}
    for seed in range(options.seeds):
        model: Any = trained(train, labels, options.steps, seed, options.teacher, changes)
        with torch.no_grad():
            seen = model.encoder.backbone(None, test.float())
            if seed == 0 and model.encoder.slot_attention.initialisation == "groups":
                say("starting groups", scored(model.encoder.starting_groups(seen), pieces, true))
            rows.append(scored(model.encoder.grouped(seen)[1][:, -1], pieces, true))
        say(f"seed {seed}", rows[-1])
    table = torch.tensor(rows)
    error = table.std(0) / len(rows) ** 0.5
    print("mean", *map("{} {:.1f} ± {:.1f}".format, SCORES, table.mean(0).tolist(), error.tolist()))


if __name__ == "__main__":
    main()

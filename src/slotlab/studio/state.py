"""Where a picture comes from: rendered by the studio, with ground truth, or given by the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slotlab.checkpoints import load
from slotlab.composition import ConceptLibrary, fingerprint
from slotlab.composition.library import LIBRARY_FILE
from slotlab.data.images import Picture, square, to_batch
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models import SlotDiffusion, SlotModel, with_slots
from slotlab.models.sampling import SamplingSettings
from slotlab.released import LIBRARY_FOLDER, library_folder, model_folder
from slotlab.scenes import render


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model under the name that the page shows, and its concept library, if one was given."""

    name: str
    model: SlotModel
    library: ConceptLibrary | None = None

    @property
    def sampling(self) -> SamplingSettings | None:
        """How it samples, unless told otherwise; None for a model that paints in one step."""
        return self.model.sampling if isinstance(self.model, SlotDiffusion) else None

    @property
    def has_poses(self) -> bool:
        """Whether objects can be moved and resized."""
        return hasattr(self.model, "move")

    def describe(self) -> str:
        """One line on the model."""
        kind = "slot diffusion" if self.sampling else "slot autoencoder"
        iterations = self.model.describe()["iterations"]
        side = self.model.resolution
        return f"{kind}, {side} × {side} pixels, {self.model.slots} slots, {iterations} iterations"


def open_models(
    models: Sequence[str | Path], libraries: Sequence[str | Path] = (), device: str = "cpu"
) -> list[Loaded]:
    """Loads models, and gives each library to the model that it was fitted to.

    Args:
        models: what `slotlab.load` takes.
        libraries: folders, or names of trained models; a library that lies in a model's own folder is found there.
        device: where the models run.

    Raises:
        CheckpointError: a model or library is missing or damaged, a model has no slots, or a library fits none of them.
        ConfigError: no model is named.
    """
    if not models:
        raise ConfigError("no model to show: name one with --model")
    opened: list[tuple[str, SlotModel]] = []
    for given in models:
        model = with_slots(load(given, device), given)
        name = Path(given).name or str(given)
        taken = [Path(other).name or str(other) for other in models[: len(opened)]].count(name)
        opened.append((f"{name} ({taken + 1})" if taken else name, model))
    prints = [fingerprint(model) for _, model in opened]
    found = {place: library for place, given in enumerate(models) if (library := _own_library(given, prints[place]))}
    for folder in libraries:
        library = ConceptLibrary.load(library_folder(folder))
        wanted = library.table.facts["fingerprint"]
        if wanted not in prints:
            raise CheckpointError(
                f"{folder}: a library of another model than those given; fit one with: slotlab concepts fit "
                f"{models[0]} --data DATA --out LIBRARY"
            )
        found[prints.index(wanted)] = library
    return [Loaded(name, model, found.get(place)) for place, (name, model) in enumerate(opened)]


def _own_library(model: str | Path, wanted: str) -> ConceptLibrary | None:
    """The concept library in a model's folder, if there is one of this very model."""
    folder = model_folder(model) / LIBRARY_FOLDER
    if not (folder / LIBRARY_FILE).is_file():
        return None
    library = ConceptLibrary.load(library_folder(model_folder(model)))
    return library if library.table.facts["fingerprint"] == wanted else None


SCENES = 10_000  # scenes 0 to 9,999 are those that no preset trains on


@dataclass(frozen=True)
class RenderedScene:
    """A scene of the renderer, known by its numbers."""

    variant: str = "plain"
    objects: int = 5
    seed: int = 3

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"{self.variant} scene {self.seed}, {self.objects} objects"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1] and its true mask, int64 [R, R]."""
        scene = render(
            [self.seed],
            variant=self.variant,
            resolution=resolution,
            min_objects=self.objects,
            max_objects=self.objects,
            supersample=1 if self.variant == "plain" else 2,  # a fine texture needs them
        )
        return scene.image[0], scene.mask[0]


@dataclass(frozen=True, eq=False)
class GivenPicture:
    """A picture that the user gave: uint8 [H, W, 3]; only its centred square is looked at."""

    pixels: np.ndarray
    title: str = "your picture"

    def at(self, resolution: int) -> tuple[Tensor, Tensor | None]:
        """The image [3, R, R] in [0, 1]; the true mask is not known."""
        cut = square(Picture(self.pixels, None, "RGB"), crop=1.0, resolution=resolution)
        return to_batch(np.ascontiguousarray(cut.image)[None], None, [0])["image"][0], None

    def shrunk(self, longest: int = 1024) -> "GivenPicture":
        """The same, no larger than models need: a session keeps its picture in memory."""
        side = min(self.pixels.shape[:2])
        cut = square(Picture(self.pixels, None, "RGB"), crop=1.0, resolution=min(side, longest))
        return GivenPicture(np.ascontiguousarray(cut.image), self.title)


Source = RenderedScene | GivenPicture


def thumbnail(source: Source, side: int = 96) -> Tensor:
    """A small picture [3, side, side] of a source."""
    return torch.as_tensor(source.at(side)[0])

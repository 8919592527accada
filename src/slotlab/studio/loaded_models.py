"""The models that the studio shows, each with its concept library."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from slotlab.checkpoints import load
from slotlab.composition import ConceptLibrary, fingerprint
from slotlab.composition.library import LIBRARY_FILE
from slotlab.errors import CheckpointError, ConfigError
from slotlab.models import ClipModel, FeatureAutoencoder, Model, PaintingModel, SlotDiffusion, SlotModel, with_slots
from slotlab.models.efficientnet import PACKAGE
from slotlab.models.sampling import SamplingSettings
from slotlab.released import LIBRARY_FOLDER, PHOTOS, library_folder, model_folder, released_names
from slotlab.segmenting.image import Usual, usual_of

FIRST_MODEL = "textured-128"  # of the bundled models, the one that the page opens with
OF_CLIPS = "moving-64"  # the one that the Clip view opens with; it has no concept library


def bundled_models() -> list[str]:
    """Names of the bundled models that can run, the one that the page opens with first."""
    has_vision = all(map(find_spec, (PACKAGE, "skimage")))  # of the extra `vision`
    names = [name for name in released_names() if name == OF_CLIPS or (model_folder(name) / LIBRARY_FOLDER).is_dir()]
    names += [PHOTOS] if has_vision else []
    return sorted(names, key=lambda name: name != FIRST_MODEL)


def model_of_uploads(models: Sequence["LoadedModel"]) -> str | None:
    """The name of the model that first looks at an uploaded image; None for the one in use."""
    return next((one.name for one in models if one.name == PHOTOS), None)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model under the name that the page shows, its concept library, and what images it knows."""

    name: str
    model: SlotModel
    library: ConceptLibrary | None = None
    usual: Usual | None = None

    @property
    def sampling(self) -> SamplingSettings | None:
        """The default sampling settings; None for a model that paints in one step."""
        return self.painting.sampling if isinstance(self.painting, SlotDiffusion) else None

    @property
    def image_model(self) -> Model:
        """The model; of a model of clips, that of its single frames."""
        return getattr(self.model, "image_model", self.model)

    @property
    def painting(self) -> PaintingModel | None:
        """The model of images, if it paints them from slots."""
        return self.image_model if isinstance(self.image_model, PaintingModel) else None

    @property
    def can_move(self) -> bool:
        """Whether objects can be moved and resized."""
        return hasattr(self.model, "move")

    def describe(self) -> str:
        """One line on the model."""
        iterations, side = self.model.describe()["iterations"], self.model.resolution
        size = f"{side} × {side} pixels, {self.model.slots} slots"
        of = " of clips" if isinstance(self.model, ClipModel) else ""
        if self.painting is None:
            parts = "slots" if isinstance(self.image_model, FeatureAutoencoder) else "groups"
            return f"{parts} of frozen features{of}, {size}; it finds objects but cannot paint them"
        return f"{'slot diffusion' if self.sampling else 'slot autoencoder'}{of}, {size}, {iterations} iterations"


def open_models(
    models: Sequence[str | Path], libraries: Sequence[str | Path] = (), device: str = "cpu"
) -> list[LoadedModel]:
    """Loads models, and gives each library to the model that it was fitted to.

    Args:
        models: what `slotlab.load` takes.
        libraries: folders, or names of trained models, besides those in the models' own folders.
        device: of the models.

    Raises:
        CheckpointError: a model or library is missing or damaged, a model has no slots, or a
            library fits no model.
        ConfigError: a model starts from boxes or centres of objects.

    Example:
        >>> [loaded] = open_models(["scenes-64"])
        >>> loaded.describe()
        'slot autoencoder, 64 × 64 pixels, 7 slots, 3 iterations'
        >>> loaded.library.concepts, loaded.can_move
        (7, False)
    """
    loaded = [with_slots(load(source, device), source) for source in models]
    for source, model in zip(models, loaded, strict=True):
        if (starts := getattr(model, "starts", "learned")) != "learned":
            raise ConfigError(f"{source}: starts from {starts}, which pictures lack; train one with starts=learned")
    made_by, found = [fingerprint(model) for model in loaded], {}
    folders = [model_folder(source) for source in models]
    own = [folder / LIBRARY_FOLDER for folder in folders if (folder / LIBRARY_FOLDER / LIBRARY_FILE).is_file()]
    for folder in (*own, *map(library_folder, libraries)):
        library = ConceptLibrary.load(folder)
        found[wanted := library.table.facts["fingerprint"]] = library
        if wanted not in made_by and folder not in own:
            raise CheckpointError(
                f"{folder}: a library of another model than those named; fit one with: slotlab concepts fit "
                f"{models[0]} --data DATA --out LIBRARY"
            )
    names: list[str] = []
    for name in (Path(source).name or str(source) for source in models):
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return [LoadedModel(name, loaded[n], found.get(made_by[n]), usual_of(folders[n])) for n, name in enumerate(names)]

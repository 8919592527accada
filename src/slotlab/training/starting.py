"""What a run begins with where its settings name a model that was trained before."""

from torch import nn

from slotlab import hub
from slotlab.errors import ConfigError
from slotlab.models import Model
from slotlab.presets.config import TrainingSettings


def start_from(source: str, model: Model, settings: TrainingSettings, average: Model | None = None) -> str:
    """Copies into a model, and into the average of its weights, the parts of another as `hub.take_parts` does.

    Returns:
        In words which parts were taken, what of them has grown, and which are fresh.

    Raises:
        CheckpointError: `source` names no model, or none with a part for this one.
        ConfigError: a slot encoder, or slots, that have learned nothing would stay so by `encoder_steps`.
    """
    taken = hub.take_parts(model, source)
    if settings.freezes_encoder and taken.get("encoder") != []:
        form = "fewer slots: the new ones" if "encoder" in taken else "another form: a fresh one"
        raise ConfigError(
            f"training.encoder_steps: the slot encoder of {source} has {form} would stay untrained after "
            f"{settings.encoder_steps} steps; add encoder_steps=none"
        )
    if average is not None:
        hub.take_parts(average, source)
    parts = [f"{part} (grown: {', '.join(growth)})" if growth else part for part, growth in taken.items()]
    fresh = [name for name, part in model.named_children() if name not in taken and _learns(part)]
    return f"starting from {source}: {', '.join(parts)}" + (f"; fresh: {', '.join(fresh)}" if fresh else "")


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())

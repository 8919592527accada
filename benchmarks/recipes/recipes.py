"""The recipes of the study, each as the stages that one training goes through."""

from dataclasses import dataclass, field
from typing import Any

Changes = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A part of a training: a preset with changes, for a share of the budget; it starts from the stage before it.

    `scaled`: settings counted in steps, as shares of the stage's steps.
    """

    preset: str
    share: float
    changes: Changes = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)


def _grown(small: Changes, large: Changes, scaled: dict[str, float] | None = None) -> tuple[Stage, ...]:
    """Half of the time at 32x32, the rest at 64x64."""
    penalty = {"background_penalty_start": 0.2, "warmup_steps": 0.03}
    return (
        Stage("scenes-32", 0.5, small, {**penalty, **(scaled or {})}),
        Stage("scenes-64", 0.5, large, {"warmup_steps": 0.03}),
    )


_BI_LEVEL: Changes = {"initialisation": "bi-level"}
_RELATIVE: Changes = {"frame": "relative", "decoder.position": "relative"}

RECIPES: dict[str, tuple[Stage, ...]] = {
    # The report's form (random starts, full gradient, every layer at full resolution, its schedule) at our widths.
    "report": (
        Stage(
            "scenes-64",
            1.0,
            {
                "initialisation": "gaussian",
                "gradient": "full",
                "decoder.broadcast": 64,
                "decoder.shuffle": 1,
                "decoder.layers": 4,
                "decoder.position": "concatenate",
                "learning_rate": 4e-4,
                "schedule": "constant",
                "background_penalty": 0.0,
                "attention_loss": 0.0,
                "ema_decay": 0.0,
            },
            {"warmup_steps": 0.02},
        ),
    ),
    "learned": _grown({}, {}),
    "bi-level": _grown(_BI_LEVEL, _BI_LEVEL, {"slot_noise_steps": 0.5}),
    "relative": _grown(_RELATIVE, _RELATIVE),
    # The slots of `learned` at 32x32, decoded by diffusion at 64x64.
    "diffusion": (
        Stage("scenes-32", 0.5, {}, {"background_penalty_start": 0.2, "warmup_steps": 0.03}),
        Stage("scenes-64-diffusion", 0.5, {}, {"warmup_steps": 0.03}),
    ),
}

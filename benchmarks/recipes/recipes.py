"""The recipes of the study, each as the stages that one training goes through."""

from dataclasses import dataclass, field
from typing import Any

Changes = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A part of a training: a preset with changes, for a share of the budget; it starts from the stage before it.

    `name`: of its runs; recipes share a stage by naming it alike. `scaled`: settings counted in steps, as shares of
    the stage's steps. `variant`: what it is trained on, where that is not what the recipe is trained for.
    `on_textured`: more changes where it is trained on textured scenes.
    """

    name: str
    preset: str
    share: float
    changes: Changes = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)
    variant: str | None = None
    on_textured: Changes = field(default_factory=dict)


def _small(name: str, changes: Changes, scaled: dict[str, float] | None = None) -> Stage:
    """Half of the time at 32x32, always on plain scenes, where slots learn soonest to follow objects."""
    shares = {"background_penalty_start": 0.04, "attention_loss_start": 0.1, "warmup_steps": 0.03, **(scaled or {})}
    return Stage(name, "scenes-32", 0.5, changes, shares, variant="plain")


def _large(name: str, changes: Changes) -> Stage:
    """The rest at 64x64. A textured object is painted worse: a pull that plain ones stand would cost it its slot."""
    return Stage(name, "scenes-64", 0.5, changes, {"warmup_steps": 0.03}, on_textured={"background_penalty": 0.002})


_BI_LEVEL: Changes = {"initialisation": "bi-level"}
_RELATIVE: Changes = {"frame": "relative", "decoder.position": "relative"}

RECIPES: dict[str, tuple[Stage, ...]] = {
    # The report's form (random starts, full gradient, every layer at full resolution, its schedule) at our widths.
    "report": (
        Stage(
            "report",
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
                "encoder.channels": [32, 32],
                "encoder.strides": [1, 1],
                "background_penalty": 0.0,
                "final_background_penalty": None,
                "attention_loss": 0.0,
                "colour_loss": 0.0,
                "ema_decay": 0.0,
            },
            {"warmup_steps": 0.02},
        ),
    ),
    "learned": (_small("small", {}), _large("learned", {})),
    "bi-level": (_small("small-bi-level", _BI_LEVEL, {"slot_noise_steps": 0.5}), _large("bi-level", _BI_LEVEL)),
    "relative": (_small("small-relative", _RELATIVE), _large("relative", _RELATIVE)),
    # The slots of `learned` at 32x32, decoded by diffusion at 64x64.
    "diffusion": (_small("small", {}), Stage("diffusion", "scenes-64-diffusion", 0.5, {}, {"warmup_steps": 0.03})),
}

"""The recipes of the study, each as the stages that one training goes through."""

from dataclasses import dataclass, field
from typing import Any

Changes = dict[str, Any]
VARIANTS = ("plain", "textured")


@dataclass(frozen=True)
class Stage:
    """A part of a training: a preset with changes, for a share of the budget; it starts from the stage before it.

    `name`: of its runs; recipes share a stage by naming it alike. `scaled`: settings counted in steps, as shares of
    the stage's steps. `variant`: what it is trained on, where that is not what the recipe is trained for.
    """

    name: str
    preset: str
    share: float
    changes: Changes = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)
    variant: str | None = None


Stages = tuple[Stage, ...]

_WARM_UP = {"warmup_steps": 0.045}
# What the presets have changed since the study was run.
_AS_STUDIED: Changes = {"sharing_penalty": 0.0}
_DIFFUSION_AS_STUDIED: Changes = {"encoder_learning_rate": 3e-4, "encoder_steps": None, "cross_attention_loss": 0.0}
# A textured ground is painted worse than a plain one: slot 0 needs a stronger pull, and longer, to keep it.
_ON_TEXTURES = {
    "background_penalty": 0.004,
    "background_penalty_start": 0,
    "final_background_penalty": 0.0005,
    "attention_loss_start": 0,
    "colour_loss": 1.0,
}


def _small(name: str, changes: Changes, scaled: dict[str, float] | None = None) -> Stage:
    """Most of the time at 32x32, always on plain scenes, where slots learn soonest to follow objects."""
    shares = {"background_penalty_start": 0.055, "attention_loss_start": 0.23, **_WARM_UP, **(scaled or {})}
    return Stage(f"small{name}", "scenes-32", 0.6, changes, shares, variant="plain")


def _grown(name: str, changes: Changes, scaled: dict[str, float] | None = None) -> dict[str, Stages]:
    """The presets' way: from small plain scenes to large ones; textures are met at 32x32 first."""
    small = _small("" if name == "learned" else f"-{name}", changes, scaled)
    large = changes | _AS_STUDIED
    textured = large | _ON_TEXTURES
    return {
        "plain": (small, Stage(name, "scenes-64", 0.4, large, _WARM_UP)),
        "textured": (
            small,
            Stage(f"{name}-32", "scenes-32", 0.2, textured, _WARM_UP),
            Stage(name, "scenes-64", 0.2, textured, _WARM_UP),
        ),
    }


def _same(*stages: Stage) -> dict[str, Stages]:
    return dict.fromkeys(VARIANTS, stages)


_BI_LEVEL: Changes = {"initialisation": "bi-level"}
_RELATIVE: Changes = {"frame": "relative", "decoder.position": "relative"}

RECIPES: dict[str, dict[str, Stages]] = {
    # The report's form (random starts, full gradient, every layer at full resolution, its schedule) at our widths.
    "report": _same(
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
                **_AS_STUDIED,
            },
            {"warmup_steps": 0.02},
        ),
    ),
    "learned": _grown("learned", {}),
    "bi-level": _grown("bi-level", _BI_LEVEL, {"slot_noise_steps": 0.5}),
    "relative": _grown("relative", _RELATIVE),
    # The slots of `learned` at 32x32, decoded by diffusion at 64x64.
    "diffusion": _same(_small("", {}), Stage("diffusion", "scenes-64-diffusion", 0.4, _DIFFUSION_AS_STUDIED, _WARM_UP)),
}

"""The recipes of the study, each as the stages that one training goes through."""

from dataclasses import dataclass, field
from typing import Any

Changes = dict[str, Any]
VARIANTS = ("plain", "textured")


@dataclass(frozen=True)
class Stage:
    """A part of a training: a preset with changes, for a share of the budget.

    `name`: of its runs; recipes share a stage by naming it alike. `scaled`: settings counted in
    steps, as shares of the stage's steps. `variant`: what it is trained on, where that is not what
    the recipe is trained for. `timed_as`: a stage whose steps do the same arithmetic, which so gets
    as many.
    """

    name: str
    preset: str
    share: float
    changes: Changes = field(default_factory=dict)
    scaled: dict[str, float] = field(default_factory=dict)
    variant: str | None = None
    timed_as: str | None = None


Stages = tuple[Stage, ...]

_WARM_UP = {"warmup_steps": 0.045}
# A textured ground is painted worse than a plain one: slot 0 needs a stronger pull, and longer, to
# keep it, and of two slots that share an object none can be made to give way yet.
_ON_TEXTURES = {
    "background_penalty": 0.004,
    "background_penalty_start": 0,
    "final_background_penalty": 0.0005,
    "sharing_penalty": 0.0,
    "attention_loss_start": 0,
    "colour_loss": 1.0,
    "pixel_sigma": 0.3,
}


def _small(name: str, changes: Changes, scaled: dict[str, float] | None = None) -> Stage:
    """The first two fifths at 32x32, on plain scenes, where slots soonest follow objects."""
    shares = {"background_penalty_start": 0.055, "attention_loss_start": 0.23, **_WARM_UP, **(scaled or {})}
    return Stage(f"{name}-small", "scenes-32", 0.4, changes, shares, "plain", _timed(f"{name}-small"))


def _small_textured(name: str, changes: Changes) -> Stage:
    timed = _timed(f"{name}-small") or f"{name}-small"
    return Stage(f"{name}-textured", "scenes-32", 0.2, changes | _ON_TEXTURES, _WARM_UP, timed_as=timed)


def _large(name: str, share: float, changes: Changes) -> Stage:
    shares = {"sharing_penalty_start": 0.625, **_WARM_UP}
    return Stage(name, "scenes-64", share, changes, shares, timed_as=_timed(name))


def _large_textured(name: str, share: float, changes: Changes) -> Stage:
    return Stage(name, "scenes-64", share, changes | _ON_TEXTURES, _WARM_UP, timed_as=_timed(name))


def _timed(name: str) -> str | None:
    """`bi-level`, and the slots that diffusion decodes, take as long as `learned`."""
    return {"bi-level-small": "learned-small", "bi-level": "learned", "diffusion-slots": "learned"}.get(name)


def _grown(name: str, changes: Changes, scaled: dict[str, float] | None = None) -> dict[str, Stages]:
    """The presets' way: from small plain scenes to large ones; textures are met at 32x32 first."""
    small = _small(name, changes, scaled)
    return {
        "plain": (small, _large(name, 0.6, changes)),
        "textured": (small, _small_textured(name, changes), _large_textured(name, 0.4, changes)),
    }


def _decoded_by_diffusion() -> dict[str, Stages]:
    """Slots as in `learned`, in fewer steps at 64x64; then a denoiser learns to decode them.

    In so few steps the denoiser's gradient would only harm them: with some seeds slots gave up the
    ground.
    """
    small, slots, diffusion = _small("learned", {}), "diffusion-slots", "scenes-64-diffusion"
    shares = {"encoder_steps": 0.0, **_WARM_UP}
    return {
        "plain": (small, _large(slots, 0.3, {}), Stage("diffusion", diffusion, 0.3, {}, shares)),
        "textured": (
            small,
            _small_textured("learned", {}),
            _large_textured(slots, 0.2, {}),
            Stage("diffusion", diffusion, 0.2, {}, shares),
        ),
    }


_BI_LEVEL: Changes = {"initialisation": "bi-level"}
_RELATIVE: Changes = {"model.kind": "relative-slot-autoencoder"}

RECIPES: dict[str, dict[str, Stages]] = {
    # The report's form (random starts, full gradient, every layer at full resolution, its schedule)
    # at our widths.
    "report": dict.fromkeys(
        VARIANTS,
        (
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
                    "sharing_penalty": 0.0,
                },
                {"warmup_steps": 0.02},
            ),
        ),
    ),
    "learned": _grown("learned", {}),
    "bi-level": _grown("bi-level", _BI_LEVEL, {"slot_noise_steps": 0.5}),
    "relative": _grown("relative", _RELATIVE),
    "diffusion": _decoded_by_diffusion(),
}

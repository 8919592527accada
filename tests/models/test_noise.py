import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from slotlab.errors import ConfigError
from slotlab.models.sampling import NoiseSchedule, draw_normal, draw_timesteps, draw_uniform

KINDS = {"linear": "linear", "sqrt-linear": "scaled_linear"}


def reference(kind, prediction="epsilon", rescale=False, scheduler=DDPMScheduler):
    return scheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule=KINDS[kind],
        prediction_type=prediction,
        clip_sample=False,
        rescale_betas_zero_snr=rescale,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rescale", [False, True])
def test_variances_are_those_of_diffusers(kind, rescale):
    ours = NoiseSchedule(kind=kind, target="v", zero_terminal_snr=rescale)
    for scheduler in (DDPMScheduler, DDIMScheduler):
        theirs = reference(kind, "v_prediction", rescale, scheduler)
        torch.testing.assert_close(ours.beta, theirs.betas, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours.cumulative_alpha, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert ours.beta.shape == (1000,)
    torch.testing.assert_close(ours.alpha, 1 - ours.beta)
    assert (ours.cumulative_alpha[-1] == 0) == rescale
    assert (ours.cumulative_alpha.diff() < 0).all()
    assert not ours.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_targets_are_those_of_diffusers(kind):
    latents, noise, timesteps = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 500, 999])
    theirs = reference(kind)
    noisy = theirs.add_noise(latents, noise, timesteps)
    for target in ("epsilon", "v", "x0"):
        ours = NoiseSchedule(kind=kind, target=target)
        torch.testing.assert_close(ours.add_noise(latents, noise, timesteps), noisy)
        wanted = {"epsilon": noise, "v": theirs.get_velocity(latents, noise, timesteps), "x0": latents}[target]
        answer = ours.target_of(latents, noise, timesteps)
        torch.testing.assert_close(answer, wanted)
        torch.testing.assert_close(ours.clean(noisy, answer, timesteps), latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_min_snr_weights(target):
    schedule = NoiseSchedule(target=target, min_snr_gamma=5.0)
    timesteps = torch.tensor([0, 50, 400, 999])
    kept = torch.cumprod(1 - torch.linspace(0.0015, 0.0195, 1000, dtype=torch.float64), 0)[timesteps]
    ratio = kept / (1 - kept)
    limited = torch.minimum(ratio, torch.full_like(ratio, 5.0))
    expected = {"epsilon": limited / ratio, "v": limited / (ratio + 1), "x0": limited}[target]
    torch.testing.assert_close(schedule.weights(timesteps).double(), expected, rtol=1e-4, atol=1e-8)
    assert torch.equal(NoiseSchedule(target=target).weights(timesteps), torch.ones(4))


def test_each_image_has_its_own_draws():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    like, device = torch.zeros(2, 3, 2), torch.device("cpu")
    for draw in (
        lambda g: draw_normal(like[: len(g)], g),
        lambda g: draw_timesteps(len(g), 1000, device, g),
        lambda g: draw_uniform(len(g), 5, device, g),
    ):
        both = draw(generators(1, 2))
        assert torch.equal(both[1:], draw(generators(2)))
        assert not torch.equal(both[:1], both[1:])
    one = torch.Generator().manual_seed(0)
    assert draw_timesteps(100, 10, device, one).unique().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "linaer"}, r"schedule.kind: Input should be 'linear' or 'sqrt-linear'"),
        ({"target": "noise"}, r"schedule.target: Input should be 'epsilon', 'v' or 'x0'"),
        ({"start": 0.02}, r"start <= end"),
        ({"steps": 0}, r"schedule.steps: Input should be greater than or equal to 1"),
        ({"min_snr_gamma": -1.0}, r"min_snr_gamma: Input should be greater than or equal to 0"),
        ({"zero_terminal_snr": True}, r"zero_terminal_snr: the last timestep has no signal.*'v' or 'x0'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        NoiseSchedule(**arguments)

from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler

from slotlab.errors import ConfigError
from slotlab.models.sampling import (
    SAMPLERS,
    NoiseSchedule,
    SamplingSettings,
    draw,
    draw_normal,
    guided,
    sample_steps,
    spaced_timesteps,
)
from slotlab.progress import finish

SHAPE = (2, 3, 4, 4)
KINDS = {"linear": "linear", "sqrt-linear": "scaled_linear"}


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def reference(kind="linear", timesteps=1000, **changes):
    """The scheduler of diffusers that a schedule of ours with its defaults equals."""
    return DDPMScheduler(timesteps, 0.0015, 0.0195, KINDS[kind], clip_sample=False, **changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rescale", [False, True])
def test_variances_are_those_of_diffusers(kind, rescale):
    schedule = NoiseSchedule(kind=kind, target="v", zero_terminal_snr=rescale)
    kept = schedule.cumulative_alpha
    torch.testing.assert_close(kept, reference(kind, rescale_betas_zero_snr=rescale).alphas_cumprod)
    assert (kept[-1] == 0) == rescale
    assert (kept.diff() < 0).all()
    assert not schedule.state_dict()


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
    limited = ratio.clamp(max=5)
    expected = {"epsilon": limited / ratio, "v": limited / (ratio + 1), "x0": limited}[target]
    torch.testing.assert_close(schedule.weights(timesteps).double(), expected, rtol=1e-4, atol=1e-8)
    assert torch.equal(NoiseSchedule(target=target).weights(timesteps), torch.ones(4))


def test_each_image_has_its_own_draws():
    like = torch.zeros(2, 3, 2)
    for drawn in (
        lambda g: draw_normal(like[: len(g)], g),
        lambda g: draw(len(g), (), g, partial(torch.randint, 1000)),
        lambda g: draw(len(g), (5,), g, torch.rand),
    ):
        both = drawn(seeded(1, 2))
        assert torch.equal(both[1:], drawn(seeded(2)))
        assert not torch.equal(both[:1], both[1:])


def sample(denoise, shape, schedule, seed=0, **settings):
    generator = seed if isinstance(seed, list) else torch.Generator().manual_seed(seed)
    return finish(sample_steps(denoise, shape, schedule, SamplingSettings(**settings), generator))


def denoise(latents, timesteps):
    """Stands for a network: depends on latents and time."""
    return torch.tanh(latents * 1.3 + timesteps[:, None, None, None] / 1000)


@pytest.mark.parametrize(("timesteps", "steps"), [(100, 100), (1000, 50)])
def test_ddpm_is_diffusers_own_stepping_bit_for_bit(timesteps, steps):
    schedule = NoiseSchedule(timesteps)
    ours = sample(denoise, SHAPE, schedule, 3, steps=steps, sampler="ddpm")
    scheduler = reference(timesteps=timesteps, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(SHAPE, generator=generator)
    for timestep in scheduler.timesteps:
        predicted = denoise(latents, torch.full((2,), int(timestep)))
        latents = scheduler.step(predicted, timestep, latents, generator=generator).prev_sample
    assert torch.equal(ours, latents)


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_gives_the_latents_back(sampler, target):
    schedule = NoiseSchedule(target=target)
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def perfect(latents, timesteps):
        kept = schedule.cumulative_alpha[timesteps][:, None, None, None]
        noise = (latents - kept.sqrt() * clean) / (1 - kept).sqrt()
        return schedule.target_of(clean, noise, timesteps)

    # The smallest timestep has noise of deviation 0.04, so that a last step can leave 1e-2.
    drawn = sample(perfect, SHAPE, schedule, 1, steps=20, sampler=sampler)
    torch.testing.assert_close(drawn, clean, rtol=0, atol=1e-2)


def test_every_number_of_steps_has_as_many_timesteps():
    for steps in range(1, 1001):
        timesteps = spaced_timesteps(steps, NoiseSchedule())
        assert len(set(timesteps)) == steps
        assert timesteps == sorted(timesteps, reverse=True)
        assert timesteps[0] == 999 and timesteps[-1] >= 0


@pytest.mark.parametrize("steps", [50, 61, 103, 510])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_of_a_known_distribution_are_as_wide_as_it(sampler, steps):
    """Even if the steps do not divide the timesteps; the best denoiser of Gaussian latents is linear."""
    schedule, deviation = NoiseSchedule(), 0.2

    def best(latents, timesteps):
        kept = schedule.cumulative_alpha[timesteps][:, None, None, None]
        return (1 - kept).sqrt() * latents / (kept * deviation**2 + 1 - kept)

    drawn = sample(best, (1, 1, 64, 64), schedule, steps=steps, sampler=sampler)
    assert 0.65 * deviation < float(drawn.std()) < 1.05 * deviation  # few steps make it narrower


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_starts_from_pure_noise(sampler):
    schedule = NoiseSchedule(target="v", zero_terminal_snr=True)
    assert torch.isfinite(sample(denoise, SHAPE, schedule, steps=10, sampler=sampler)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_image_depends_on_its_own_generator(sampler):
    def drawn(*seeds):
        return sample(denoise, (len(seeds), 3, 4, 4), NoiseSchedule(), seeded(*seeds), steps=5, sampler=sampler)

    torch.testing.assert_close(drawn(1, 2)[1:], drawn(2))
    torch.testing.assert_close(drawn(1, 2), drawn(1, 2), rtol=0, atol=0)
    assert not torch.allclose(drawn(1), drawn(2))


def test_each_step_evaluates_once_and_yields_the_clean_latents():
    evaluations = []

    def counting(latents, timesteps):
        evaluations.append(int(timesteps[0]))
        return denoise(latents, timesteps)

    steps = list(sample_steps(counting, SHAPE, NoiseSchedule(target="x0"), SamplingSettings(steps=4)))
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert evaluations == [999, 749, 499, 249]
    assert all(step[2].abs().max() <= 1 for step in steps)  # of x0, the tanh itself


def test_guidance():
    latents, timesteps = torch.randn(SHAPE), torch.zeros(2)
    conditional, unconditional = (lambda x, t: 2 * x), (lambda x, t: x)
    torch.testing.assert_close(guided(conditional, unconditional, 3.0)(latents, timesteps), 4 * latents)


def test_too_many_steps_and_too_few_generators():
    with pytest.raises(ConfigError, match=r"sampling.steps: must be at most 1000"):
        sample(denoise, SHAPE, NoiseSchedule(), steps=1001)
    with pytest.raises(ValueError, match=r"1 generators for 2 images"):
        sample(denoise, SHAPE, NoiseSchedule(), seeded(0))

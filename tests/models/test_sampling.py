import pytest
import torch
from diffusers import DDPMScheduler

from slotlab.errors import ConfigError
from slotlab.models.sampling import SAMPLERS, NoiseSchedule, guided, sample_steps, spaced_timesteps
from slotlab.progress import finish

SHAPE = (2, 3, 4, 4)


def sample(*args, **kwargs):
    return finish(sample_steps(*args, **kwargs))


def denoise(latents, timesteps):
    """Stands for a network: depends on latents and time."""
    return torch.tanh(latents * 1.3 + timesteps[:, None, None, None] / 1000)


@pytest.mark.parametrize(("timesteps", "steps"), [(100, 100), (1000, 50)])
def test_ddpm_is_diffusers_own_stepping_bit_for_bit(timesteps, steps):
    schedule = NoiseSchedule(timesteps)
    ours = sample(denoise, SHAPE, schedule, steps=steps, sampler="ddpm", generator=torch.Generator().manual_seed(3))
    scheduler = DDPMScheduler(
        num_train_timesteps=timesteps,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
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

    # The smallest timestep still has noise of deviation 0.04, so that 1e-2 is what a last step can leave.
    drawn = sample(perfect, SHAPE, schedule, steps=20, sampler=sampler, generator=torch.Generator().manual_seed(1))
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
    """Whether or not the number of steps divides the timesteps; the best denoiser of Gaussian latents is linear."""
    schedule, deviation = NoiseSchedule(), 0.2

    def best(latents, timesteps):
        kept = schedule.cumulative_alpha[timesteps][:, None, None, None]
        return (1 - kept).sqrt() * latents / (kept * deviation**2 + 1 - kept)

    drawn = sample(
        best, (1, 1, 64, 64), schedule, steps=steps, sampler=sampler, generator=torch.Generator().manual_seed(0)
    )
    assert 0.65 * deviation < float(drawn.std()) < 1.05 * deviation  # few steps make it narrower


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_starts_from_pure_noise(sampler):
    schedule = NoiseSchedule(target="v", zero_terminal_snr=True)
    assert torch.isfinite(sample(denoise, SHAPE, schedule, steps=10, sampler=sampler)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_image_depends_on_its_own_generator(sampler):
    def drawn(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sample(denoise, (len(seeds), 3, 4, 4), NoiseSchedule(), steps=5, sampler=sampler, generator=generators)

    torch.testing.assert_close(drawn(1, 2)[1:], drawn(2))
    torch.testing.assert_close(drawn(1, 2), drawn(1, 2), rtol=0, atol=0)
    assert not torch.allclose(drawn(1), drawn(2))


def test_each_step_evaluates_once_and_yields_the_clean_latents():
    evaluations = []

    def counting(latents, timesteps):
        evaluations.append(int(timesteps[0]))
        return denoise(latents, timesteps)

    steps = list(sample_steps(counting, SHAPE, NoiseSchedule(target="x0"), steps=4))
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert evaluations == [999, 749, 499, 249]
    assert all(step[2].abs().max() <= 1 for step in steps)  # of x0, the tanh itself


def test_guidance():
    latents, timesteps = torch.randn(SHAPE), torch.zeros(2)
    conditional, unconditional = (lambda x, t: 2 * x), (lambda x, t: x)
    assert guided(conditional, unconditional, 1.0) is conditional
    torch.testing.assert_close(guided(conditional, unconditional, 3.0)(latents, timesteps), 4 * latents)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True])
def test_bad_steps(steps):
    with pytest.raises(ConfigError, match=r"steps: must be a whole number from 1 to 1000"):
        sample(denoise, SHAPE, NoiseSchedule(), steps=steps)


def test_bad_sampler_and_generators():
    with pytest.raises(ConfigError, match=r"sampler: unknown sampler 'dpm-solver'; did you mean 'dpm-solver\+\+'"):
        sample(denoise, SHAPE, NoiseSchedule(), sampler="dpm-solver")
    with pytest.raises(ValueError, match=r"1 generators for 2 images"):
        sample(denoise, SHAPE, NoiseSchedule(), generator=[torch.Generator()])

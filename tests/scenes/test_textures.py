import pytest
import torch

from slotlab.scenes.noise import scene_keys, uniform
from slotlab.scenes.patterns import sine_turns
from slotlab.scenes.textures import FAMILIES, MATERIALS, NUMBERS, paint, prepare


@pytest.mark.parametrize("name", MATERIALS)
def test_every_material_paints_colours_in_range_and_bit_by_bit_anywhere(name):
    kind = MATERIALS.index(name)
    numbers = uniform(scene_keys(3, torch.arange(5), torch.zeros(5, dtype=torch.int64)), 1, NUMBERS)
    coefficients = prepare(torch.full((5,), kind), numbers)
    u, v = torch.meshgrid(torch.linspace(-4, 4, 37), torch.linspace(-4, 4, 37), indexing="ij")
    u, v = u.reshape(-1), v.reshape(-1)
    width, ahead = torch.full_like(u, 0.02), (torch.full_like(u, 0.6), torch.full_like(u, -0.2))
    for material in range(5):
        row = coefficients[:, material : material + 1].unbind(0)
        surface = paint(kind, row, u, v, width, ahead)
        for channel in surface[:5]:
            assert channel.isfinite().all()
            assert (channel >= -1e-6).all()
            assert (channel <= 1.001).all()
        assert surface.rise.isfinite().all()
        assert bool(surface.rise.any()) == bool(FAMILIES[name].bump)
        some = paint(kind, row, u[5:18], v[5:18], width[5:18], (ahead[0][5:18], ahead[1][5:18]))
        for whole, part in zip(surface, some, strict=True):
            assert torch.equal(whole.expand_as(u)[5:18], part.expand_as(u[5:18]))


def test_random_numbers_are_uniform_and_independent_of_their_neighbours():
    keys = scene_keys(0, torch.arange(2000), torch.zeros(2000, dtype=torch.int64))
    numbers = uniform(keys, 2, 10)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert torch.allclose(numbers.mean(0), torch.full((10,), 0.5), atol=0.03)
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 0.1
    assert torch.equal(uniform(keys[7:8], 2, 4), numbers[7:8, :4])
    assert not torch.equal(uniform(keys, 3, 10), numbers)


def test_sine():
    turns = torch.linspace(-2, 2, 401)
    assert torch.allclose(sine_turns(turns), torch.sin(2 * torch.pi * turns), atol=2e-3)

import torch

from slotlab.data import Scenes, ScenesInMemory
from slotlab.data import scenes as scenes_module


class Counted(Scenes):
    rendered = 0

    def batch(self, positions):
        self.rendered += len(positions)
        return super().batch(positions)


def test_each_scene_is_rendered_once_and_stays_the_same(monkeypatch):
    monkeypatch.setattr(scenes_module, "RENDERED_TOGETHER", 1)
    scenes = Counted("plain", count=4, resolution=16)
    memory = ScenesInMemory(scenes)
    first = memory.batch([2, 0, 2])
    assert scenes.rendered == 2
    again = memory.batch([0, 2, 1])
    assert scenes.rendered == 3
    for key in ("image", "mask", "index"):
        assert torch.equal(first[key][:2], again[key][[1, 0]])
    direct = scenes.batch([2])
    assert torch.equal(direct["mask"], first["mask"][:1])
    assert torch.equal(direct["index"], first["index"][:1])
    assert (direct["image"] - first["image"][:1]).abs().max() <= 0.5 / 255 + 1e-6
    assert memory.describe() == scenes.describe()


def test_scenes_not_asked_for_yet_are_rendered_along():
    scenes = Counted("plain", count=4, resolution=16)
    memory = ScenesInMemory(scenes)
    memory.batch([2])
    assert scenes.rendered == 4
    assert torch.equal(memory.batch([3, 1])["index"], scenes.batch([3, 1])["index"])

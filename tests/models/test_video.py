import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import slotlab
from slotlab.checkpoints import model_from_config, save, take_parts
from slotlab.errors import ConfigError
from slotlab.evaluation import evaluate, outputs
from slotlab.models import SlotAutoencoder, TrackedModel, VideoModel, boxes_of
from slotlab.models.output import SlotOutput
from slotlab.models.slot_diffusion import SlotDiffusion
from slotlab.models.video import matched, reordered

PARTS = {
    "resolution": 16,
    "encoder": {"kind": "cnn", "strides": [2, 1], "channels": 8},
    "slot_attention": {"slots": 4, "dim": 8, "projection_dim": 8, "mlp_dim": 16, "initialisation": "learned"},
    "decoder": {"kind": "broadcast", "channels": 8},
}
DIFFUSION = {
    **{name: PARTS[name] for name in ("resolution", "encoder", "slot_attention")},
    "autoencoder": {"family": "kl", "channels": [8, 8, 8], "layers": 1},
    "denoiser": {"channels": 16, "multipliers": [1, 2], "attention_levels": [2], "blocks": 1, "num_repeat": 1}
    | {"head_dim": 8, "time_dim": 16},
    "sampling": {"steps": 2},
}
CLIPS = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MASKS = torch.randint(0, 4, (2, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def image_model(**changes):
    torch.manual_seed(0)
    return SlotAutoencoder(**{**PARTS, **changes})


def video(model=None, **options):
    torch.manual_seed(1)
    return VideoModel(model or image_model(), **options)


@pytest.mark.parametrize("kind", ["autoencoder", "relative", "diffusion"])
def test_any_slot_model_becomes_one_of_clips(kind):
    if kind == "diffusion":
        model = VideoModel(SlotDiffusion(**DIFFUSION))
    elif kind == "relative":
        model = VideoModel(model_from_config({"kind": "relative-slot-autoencoder", **PARTS}))
    else:
        model = video()
    for parameter in model.parameters():
        if not parameter.any():  # the zeros that some layers start at would hide what is before them
            torch.nn.init.normal_(parameter, std=0.1)
    output = model.train()(CLIPS, [torch.Generator().manual_seed(n) for n in range(2)])
    loss = model.losses(output, CLIPS.flatten(0, 1))
    assert output.slots.shape[:2] == (6, 4) and loss.shape == (6,)
    assert output.masks.sum(dim=1).allclose(torch.ones(1), atol=1e-4)
    loss.mean().backward()
    assert model.predictor.mlp[2].weight.grad.abs().sum() > 0
    assert (model.slots, model.resolution) == (4, 16)


def test_the_first_frame_is_that_of_the_image_model():
    model = video().eval()
    output, alone = model(CLIPS), model.image_model(CLIPS[:, 0])
    assert torch.equal(output.slots.unflatten(0, (2, 3))[:, 0], alone.slots)
    assert torch.equal(model(CLIPS[:, 0]).masks, alone.masks)  # images are clips of one frame


def test_later_frames_start_from_the_slots_before():
    model = video(predictor="identity", later_iterations=2).eval()
    slots = model(CLIPS).slots.unflatten(0, (2, 3))
    encoder = model.encoder
    features = encoder.mlp(encoder.position(encoder.backbone(CLIPS[:, 1] * 2 - 1)).flatten(2).transpose(1, 2))
    inputs = encoder.slot_attention.norm_features(features)
    keys, values = encoder.slot_attention.to_key(inputs), encoder.slot_attention.to_value(inputs)
    expected = slots[:, 0]
    for _ in range(2):
        expected, _ = encoder.slot_attention.iterate(expected, keys, values)
    torch.testing.assert_close(slots[:, 1], expected)


def test_an_untrained_predictor_changes_nothing():
    assert torch.equal(video()(CLIPS).slots, video(predictor="identity")(CLIPS).slots)


@pytest.mark.parametrize("make", [video, lambda: TrackedModel(image_model())])
def test_a_stream_gives_the_frames_of_the_clip(make):
    model = make().eval()
    whole = model(CLIPS).slots.unflatten(0, (2, 3))
    streamed = torch.stack([output.slots for output in model.stream(iter(CLIPS.unbind(1)))], dim=1)
    torch.testing.assert_close(streamed, whole)
    (alone,) = model.stream([CLIPS[0, 0]])
    torch.testing.assert_close(alone.slots, whole[:1, 0], atol=1e-5, rtol=1e-4)
    assert not alone.slots.requires_grad


def test_two_clips_at_once_do_not_disturb_each_other():
    model = video(predictor="identity").eval()
    alone = [[output.slots for output in model.stream(clip)] for clip in CLIPS]
    one, other = (model.stream(clip) for clip in CLIPS)
    turns = [[next(one).slots, next(other).slots] for _ in range(3)]
    assert all(torch.equal(slots, alone[n][time]) for time, turn in enumerate(turns) for n, slots in enumerate(turn))
    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(lambda clip: [*model.stream(clip)], CLIPS), alone, strict=True):
            assert all(torch.equal(output.slots, slots) for output, slots in zip(found, expected, strict=True))


def test_gradients_stop_where_they_are_cut():
    def reaches(backpropagate):
        clips = CLIPS.clone().requires_grad_()
        video(backpropagate=backpropagate)(clips).slots.unflatten(0, (2, 3))[:, 2].sum().backward()
        return [bool(clips.grad[:, time].any()) for time in range(3)]

    assert reaches(0) == [True, True, True]
    assert reaches(1) == [False, False, True]
    assert reaches(2) == [False, False, True]


@pytest.mark.parametrize("starts", ["boxes", "centres"])
def test_starts_from_objects_of_the_first_frame(starts):
    model = video(starts=starts)
    cues = boxes_of(MASKS[:, 0], 4)
    moved = cues.clone()
    moved[0, 1] = torch.tensor([0.0, 0.0, 0.1, 0.1])
    one, other = model(CLIPS, cues=cues).slots, model(CLIPS, cues=moved).slots
    assert not torch.equal(one[0], other[0]) and torch.equal(one[3:], other[3:])
    unseen = model(CLIPS, cues=torch.zeros_like(cues)).slots
    assert torch.equal(unseen, video()(CLIPS).slots)  # without objects, its own starts
    with pytest.raises(ValueError, match="boxes_of"):
        model(CLIPS)


def test_an_anchor_mixes_in_the_starts_of_the_slots():
    model = video(predictor="identity", anchor=0.25)
    slots, start = torch.randn(2, 4, 8), model.encoder.slot_attention.start
    torch.testing.assert_close(model.predicted(slots), 0.75 * slots + 0.25 * start)
    with pytest.raises(ConfigError, match=r"video.anchor: .*initialisation=learned"):
        video(image_model(slot_attention={"slots": 3, "dim": 8}), anchor=0.1)


def test_the_first_frame_can_be_seen_several_times():
    once, thrice = video(predictor="identity"), video(predictor="identity", first_passes=3)
    repeated = once(CLIPS[:, [0, 0, *range(CLIPS.shape[1])]]).slots.unflatten(0, (len(CLIPS), -1))
    assert torch.equal(thrice(CLIPS).slots.unflatten(0, (len(CLIPS), -1)), repeated[:, 2:])


def test_boxes_hold_their_objects():
    for number, box in enumerate(boxes_of(MASKS[:, 0], 6)[0].tolist()):
        rows, columns = (MASKS[0, 0] == number).nonzero().unbind(1)
        if number in (0, 4, 5):
            assert box == [0, 0, 0, 0]
        else:
            sides = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert box == [int(side) / 16 for side in sides]


def output_of(owners, slots):
    masks = torch.nn.functional.one_hot(owners, slots.shape[1]).movedim(-1, 1).float()
    return SlotOutput(slots, masks.flatten(2)[:, None], (2, 4), masks, torch.zeros(1, 3, 2, 4))


def test_tracking_undoes_a_shuffle():
    owners, slots = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3]]]), torch.randn(1, 4, 8)
    before, order = output_of(owners, slots), torch.tensor([2, 0, 3, 1])
    after = output_of(order.argsort()[owners], slots[:, order])  # slot j is now what slot order[j] was
    again = reordered(after, matched(before, after))
    for name in ("slots", "masks", "attention"):
        assert torch.equal(getattr(again, name), getattr(before, name))


def test_slots_without_pixels_are_matched_by_their_vectors():
    slots = torch.eye(4)[None]
    before = output_of(torch.zeros(1, 2, 4, dtype=torch.int64), slots)
    order = torch.tensor([0, 3, 1, 2])
    after = output_of(torch.zeros(1, 2, 4, dtype=torch.int64), slots[:, order])
    assert torch.equal(reordered(after, matched(before, after)).slots, slots)


def test_saved_loaded_and_begun_from_an_image_model(tmp_path):
    source = image_model()
    save(source, tmp_path / "image")
    model = video(image_model(pixel_sigma=0.3), later_iterations=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    take_parts(model, tmp_path / "image")
    assert all(torch.equal(one, source.state_dict()[name]) for name, one in model.image_model.state_dict().items())
    save(model, tmp_path / "video")
    again = slotlab.load(tmp_path / "video")
    assert isinstance(again, VideoModel) and again.config == model.config
    assert torch.equal(again(CLIPS).slots, model(CLIPS).slots)
    further = video()
    take_parts(further, tmp_path / "video")
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in further.state_dict().items())


def test_wrong_settings_are_named():
    for section, message in (
        ({"predictor": "magic"}, "video.predictor"),
        ({"later_iterations": 0}, "video.later_iterations"),
        ({"heads": 3}, "video.heads"),
        ({"image_model": None}, "image_model"),
    ):
        with pytest.raises(ConfigError, match=message):
            model_from_config({"kind": "slot-autoencoder", **PARTS, "video": section})
    with pytest.raises(ConfigError, match="video: a latent-autoencoder"):
        model_from_config({"kind": "latent-autoencoder", "resolution": 16, "video": {}})


@pytest.mark.parametrize("make", [video, image_model, lambda: video(starts="boxes")])
def test_clips_are_evaluated_and_batches_make_no_difference(make):
    data = slotlab.open_data(
        "scenes:moving", split="test", resolution=16, count=3, frames=3, min_objects=1, max_objects=3
    )
    model = make().eval()
    one, other = (evaluate(model, data, batch_size=size) for size in (1, 3))
    assert one.protocol["frames"] == 3 and one.protocol["count"] == 3
    assert ("tracking" in one.protocol) == isinstance(model, SlotAutoencoder)
    for name, score in one.video["masks"].items():
        assert score.mean == pytest.approx(other.video["masks"][name].mean, nan_ok=True)
    assert one.video["masks"]["ari"].count == 3 and one.masks["ari"].count == 9
    assert math.isfinite(one.to_json()["video"]["masks"]["identity"]["mean"])
    ((batch, output),) = outputs(model, data)
    assert len(batch["image"]) == len(output) == 9 and len(batch["index"]) == 3

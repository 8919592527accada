"""Edit: objects taken in hand: removed, copied, replaced, moved, and painted again."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from slotlab.composition.edits import Edited, paint_edit, paint_edit_steps, read_scene
from slotlab.models.sampling import SAMPLERS, SamplingSettings
from slotlab.studio import components, edit_session
from slotlab.studio.components import AT_ONCE, WORK, Done, Stopped, View, listen, note, politely
from slotlab.studio.edit_session import Editing
from slotlab.studio.panel import picture_choosers
from slotlab.studio.state import Loaded, Source

MOST_SAMPLING_STEPS = 100
BETWEEN_PREVIEWS = 0.2  # seconds, at least
NO_POSES = (
    "Move and resize: not with this model. Its slots hold where an object is among everything else they say, so that a "
    "place cannot be changed alone. Models with relative frames can (slot_attention.frame=relative)."
)
TOOLS = (
    "Select an object first. Remove leaves it out, Duplicate adds it once more, Move puts it where you click next. "
    "Undo, Redo and Start again go through what was done."
)
FILES = "PNG: the picture after the edit. Slots: their vectors and numbers. All: these, masks, and a labelled picture."
NO_LIBRARY = "Concepts: none here. Start the studio with --library FOLDER to draw objects from a concept library."


def edit_view(model: gr.Dropdown, find: Callable[[str], Loaded]) -> View:
    """Builds the view."""
    state = gr.State(None)
    with gr.Row(elem_classes="sl-tools"):
        remove = gr.Button("Remove", size="sm", elem_id="sl-remove", min_width=90)
        duplicate = gr.Button("Duplicate", size="sm", elem_id="sl-duplicate", min_width=90)
        move = gr.Button("Move", size="sm", elem_id="sl-move", min_width=90)
        undo = gr.Button("Undo", size="sm", elem_id="sl-undo", min_width=80)
        redo = gr.Button("Redo", size="sm", elem_id="sl-redo", min_width=80)
        restart = gr.Button("Start again", size="sm", elem_id="sl-restart", min_width=100)
        stop = gr.Button("Stop painting", size="sm", elem_id="sl-stop", variant="stop", min_width=110, visible=False)
    gr.HTML(note(TOOLS))
    status = gr.HTML(note(""), elem_id="sl-edit-status")
    figure = components.figure({"groups": []}, elem_id="sl-edit")
    placed = gr.HTML(note(NO_POSES), elem_id="sl-no-poses")
    with gr.Row(elem_classes="sl-tools", visible=False) as resizing:
        size = gr.Slider(
            0.5, 2.0, value=1.25, step=0.05, label="Size", info="How many times as large.", elem_id="sl-size"
        )
        resize = gr.Button("Resize", size="sm", min_width=90, elem_id="sl-resize")
    with gr.Accordion("Objects from elsewhere", open=False, elem_id="sl-elsewhere"), gr.Row():
        with gr.Column(min_width=240):
            choosers = picture_choosers("sl-other-upload")
        with gr.Column(min_width=260):
            other = components.figure({"groups": []}, elem_id="sl-other", elem_classes="sl-small")
            put = gr.Button("Put it in the place of the selected object", size="sm", elem_id="sl-put")
            add = gr.Button("Add it to the scene", size="sm", elem_id="sl-add")
            background = gr.Button("Take this picture's background", size="sm", elem_id="sl-background")
        with gr.Column(min_width=220):
            no_library = gr.HTML(note(NO_LIBRARY), elem_id="sl-no-library")
            concept = gr.Dropdown(
                [], label="Concept", info="A member of it, drawn by the seed, replaces the selected object.",
                visible=False, elem_id="sl-concept",
            )  # fmt: skip
            concept_seed = gr.Number(
                0, precision=0, minimum=0, label="Seed of the member", info="Another seed, another member.",
                visible=False,
            )  # fmt: skip
            draw = gr.Button("Put a member in its place", size="sm", visible=False, elem_id="sl-draw")
    with gr.Accordion("How it is painted", open=False, visible=False, elem_id="sl-sampling") as sampling, gr.Row():
        steps = gr.Slider(
            1, MOST_SAMPLING_STEPS, value=5, step=1, label="Steps", info="More take longer.", elem_id="sl-steps"
        )
        sampler = gr.Dropdown(list(SAMPLERS), value="dpm-solver++", label="Sampler", info="How noise becomes picture.")
        seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Of the noise: another seed, another sample.")
        again = gr.Button("Paint again", min_width=100, elem_id="sl-again")
    with gr.Row(elem_classes="sl-tools"):
        save_png = gr.Button("Download PNG", size="sm", elem_id="sl-save-png")
        save_npz = gr.Button("Download slots (.npz)", size="sm", elem_id="sl-save-npz")
        save_all = gr.Button("Download all (.zip)", size="sm", elem_id="sl-save-all")
    gr.HTML(note(FILES))
    courier = components.courier()

    settings = [model, steps, sampler, seed]
    shown = [state, figure, status, stop]

    def painting(
        now: Editing, then: Editing, name: str, steps: int, sampler: str, seed: float | None
    ) -> Iterator[tuple[Any, ...]]:
        """Paints what `then` holds, with previews where the model samples; if it is stopped, all stays as it is now."""
        loaded = find(name)
        if loaded.sampling is None:
            yield _finished(then, paint_edit(loaded.model, then.scene, then.plan))
            return
        settings = dataclasses.replace(loaded.sampling, sampler=sampler, steps=int(steps))

        def work(say: Callable[[Any], None]) -> Edited:
            steps = paint_edit_steps(loaded.model, then.scene, then.plan, int(seed or 0), sampling=settings)
            while True:
                try:
                    say(next(steps))
                except StopIteration as end:
                    return end.value

        shown_at = 0.0
        with now.painter.painting() as stopping:
            try:
                for heard in listen(work, stopping):
                    if isinstance(heard, Done):
                        yield _finished(then, heard.result)
                    elif time.monotonic() - shown_at > BETWEEN_PREVIEWS:
                        done, total, image = heard
                        words = f"Painting: step {done} of {total}."
                        preview = edit_session.edit_figure(then, image, words)
                        yield gr.skip(), preview, note(words), gr.Button(visible=True)
                        shown_at = time.monotonic()
            except Stopped:
                stopped = note("Stopped; nothing was changed.")
                yield gr.skip(), edit_session.edit_figure(now), stopped, gr.Button(visible=False)

    def does(change: Callable[..., Editing]) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """An event's function that changes the plan and paints it."""

        def act(now: Editing | None, name: str, steps: int, sampler: str, seed: float | None, *more: Any) -> Any:
            now = _begun(now)
            yield from painting(now, change(now, *more), name, steps, sampler, seed)

        return politely(act)

    acts = [
        (remove.click, edit_session.remove, []),
        (duplicate.click, edit_session.duplicate, []),
        (undo.click, lambda now: now.at_step(now.at - 1), []),
        (redo.click, lambda now: now.at_step(now.at + 1), []),
        (restart.click, edit_session.begin_again, []),
        (again.click, lambda now: now, []),
        (put.click, edit_session.replace_by_other, []),
        (add.click, edit_session.add_other, []),
        (background.click, edit_session.swap_background, []),
        (resize.click, edit_session.resize, [size]),
        (draw.click,
         lambda now, name, number, of: edit_session.replace_by_concept(now, find(name), number, int(of or 0)),
         [model, concept, concept_seed]),
    ]  # fmt: skip
    for event, change, more in acts:
        event(does(change), [state, *settings, *more], shown, **WORK)

    def pointed(now: Editing | None, event: gr.EventData) -> tuple[Any, ...]:
        before = _begun(now)
        now = dataclasses.replace(before, selected=event.slot, placing=False)
        return now, edit_session.edit_figure(now) if before.placing else gr.skip(), note(_selected(now))

    def place(
        now: Editing | None, name: str, steps: int, sampler: str, seed: float | None, event: gr.EventData
    ) -> Iterator[tuple[Any, ...]]:
        now = _begun(now)
        side = now.scene.image.shape[-1]
        moved = edit_session.move_to(now, (event.x + 0.5) / side, (event.y + 0.5) / side)
        yield from painting(now, moved, name, steps, sampler, seed)

    def moving(now: Editing | None) -> tuple[Any, ...]:
        now = _begun(now)
        now.chosen()
        now = dataclasses.replace(now, placing=not now.placing)
        return now, edit_session.edit_figure(now), note(_selected(now))

    figure.choose(politely(pointed), state, [state, figure, status], **AT_ONCE)
    figure.place(politely(place), [state, *settings], shown, **WORK)
    move.click(politely(moving), state, [state, figure, status], **AT_ONCE)

    stop.click(lambda now: _begun(now).painter.stop(), state, None, **AT_ONCE)

    def read_other(now: Editing | None, name: str, source: Source) -> tuple[Any, ...]:
        loaded = find(name)
        scene = read_scene(loaded.model, source.at(loaded.model.resolution)[0])
        now = dataclasses.replace(_begun(now), other=scene, other_selected=None)
        return now, edit_session.other_figure(scene, None)

    other_source = gr.State(None)
    for chooser in choosers:
        made = chooser.event(politely(chooser.make), chooser.inputs, other_source, **WORK)
        made.success(politely(read_other), [state, model, other_source], [state, other], **WORK)
    other.choose(politely(_other_selected), state, state, **AT_ONCE)

    for button, name, kind in (
        (save_png, "edited.png", "image/png"),
        (save_npz, "slots.npz", "application/octet-stream"),
        (save_all, "edit.zip", "application/zip"),
    ):
        button.click(politely(_saver(name, kind)), state, courier, **WORK)

    def refresh(loaded: Loaded, source: Source) -> tuple[Any, ...]:
        scene = read_scene(loaded.model, source.at(loaded.model.resolution)[0])
        now = edit_session.begin(scene)
        now = dataclasses.replace(now, painted=paint_edit(loaded.model, scene, now.plan))
        library = loaded.library
        names = [] if library is None else _concept_names(library.sizes)
        defaults = loaded.sampling or SamplingSettings()
        return (
            now,
            edit_session.edit_figure(now),
            note("Nothing is selected."),
            gr.Button(visible=False),
            gr.HTML(visible=not loaded.has_poses),
            gr.Button(interactive=loaded.has_poses),
            gr.Row(visible=loaded.has_poses),
            gr.Accordion(visible=loaded.sampling is not None),
            gr.Slider(value=min(defaults.steps, MOST_SAMPLING_STEPS)),
            gr.Dropdown(value=defaults.sampler),
            gr.HTML(visible=library is None),
            gr.Dropdown(choices=names, value=names[-1][1] if names else None, visible=bool(names)),
            gr.Number(visible=bool(names)),
            gr.Button(visible=bool(names)),
            {"groups": []},
        )

    outputs = [*shown, placed, move, resizing, sampling, steps, sampler, no_library, concept, concept_seed, draw, other]
    return View("Edit", outputs, refresh)


def _begun(now: Editing | None) -> Editing:
    if now is None:
        raise gr.Error("Choose a picture first.", print_exception=False)
    return now


def _finished(now: Editing, painted: Edited) -> tuple[Any, ...]:
    now = dataclasses.replace(now, painted=painted)
    return now, edit_session.edit_figure(now), note(_selected(now)), gr.Button(visible=False)


def _selected(now: Editing) -> str:
    if now.placing:
        return f"Slot {now.selected} is in your hand: click where its centre shall be, or Move again to let go."
    what = "Nothing is selected." if now.selected is None else f"Slot {now.selected} is selected."
    painted = now.painted
    if painted is None or not painted.changed:
        return what
    error = painted.outside_error
    return f"{what} {now.done[now.at].capitalize()}. Mean squared error outside the edited region: {error:.2g}."


def _other_selected(now: Editing | None, event: gr.EventData) -> Editing:
    return dataclasses.replace(_begun(now), other_selected=event.slot)


def _saver(name: str, kind: str) -> Callable[[Editing | None], dict[str, str]]:
    def save(now: Editing | None) -> dict[str, str]:
        files = edit_session.edit_files(_begun(now))
        return components.parcel(name, edit_session.zipped(files) if name.endswith(".zip") else files[name], kind)

    return save


def _concept_names(sizes: list[int]) -> list[tuple[str, int]]:
    return [
        (f"{'background' if number == 0 else f'concept {number}'}: {size:,} members", number)
        for number, size in enumerate(sizes)
        if size
    ]

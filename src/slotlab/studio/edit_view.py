"""The Edit view: remove, copy, replace, move and add objects, and see the edited image painted."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import gradio as gr

from slotlab.composition.edits import paint_edit, read_scene
from slotlab.errors import ConfigError
from slotlab.models.sampling import SAMPLERS, SamplingSettings
from slotlab.studio import components, edit_session
from slotlab.studio.components import View, at_once, at_work, begun, button, note
from slotlab.studio.edit_session import Editing, edit_figure
from slotlab.studio.image_chooser import ChosenImage, image_choosers
from slotlab.studio.loaded_models import LoadedModel

MOST_SAMPLING_STEPS = 100
BETWEEN_PREVIEWS = 0.2  # seconds, at least
TOOLS = "Select an object first. Remove deletes it, Duplicate adds a copy. Start again undoes all edits."
FILES = (
    "PNG: the edited image, enlarged. Slots: their vectors and numbers. All: these, the image in its own size, masks, "
    "and a labelled figure."
)
NO_LIBRARY = "No concepts: start the studio with --library FOLDER to draw objects from a concept library."


def edit_view(model: gr.Dropdown, find: Callable[[str], LoadedModel]) -> View:
    """Builds the view."""
    state = gr.State(None)
    cannot = gr.HTML(note(edit_session.CANNOT_PAINT), visible=False, elem_id="sl-cannot-paint")
    with gr.Column() as whole:
        with gr.Row(elem_classes="sl-tools"):
            remove, duplicate = button("Remove", "sl-remove"), button("Duplicate", "sl-duplicate")
            move = button("Move", "sl-move", visible=False)
            undo, redo = button("Undo", "sl-undo", min_width=80), button("Redo", "sl-redo", min_width=80)
            restart = button("Start again", "sl-restart", min_width=100)
            stop = button("Stop painting", "sl-stop", variant="stop", min_width=110, visible=False)
        gr.HTML(note(TOOLS))
        status = gr.HTML(note(""), elem_id="sl-edit-status")
        figure = components.figure(elem_id="sl-edit")
        with gr.Row(elem_classes="sl-tools", visible=False) as resizing:
            size = gr.Slider(0.5, 2.0, value=1.25, step=0.05, label="Size", info="Factor.", elem_id="sl-size")
            resize = button("Resize", "sl-resize")
        with gr.Accordion("Objects from elsewhere", open=False, elem_id="sl-elsewhere"), gr.Row():
            with gr.Column(min_width=240):
                choosers = image_choosers("sl-other-upload", other_image := gr.State(None))
            with gr.Column(min_width=260):
                other = components.figure(elem_id="sl-other", elem_classes="sl-small")
                put = button("Replace the selected object by it", "sl-put")
                add = button("Add it to the scene", "sl-add")
                background = button("Take this image's background", "sl-background")
            with gr.Column(min_width=220):
                no_library = gr.HTML(note(NO_LIBRARY), elem_id="sl-no-library")
                with gr.Column(visible=False) as concepts:
                    info = "One of its members replaces the selected object."
                    concept = gr.Dropdown([], label="Concept", info=info)
                    member = gr.Number(0, precision=0, minimum=0, label="Seed", info="Another seed, another member.")
                    draw = button("Replace the selected object", "sl-draw")
        with gr.Accordion("Sampling", open=False, visible=False, elem_id="sl-sampling") as sampling, gr.Row():
            steps = gr.Slider(1, MOST_SAMPLING_STEPS, value=5, step=1, label="Steps", info="More take longer.")
            sampler = gr.Dropdown(list(SAMPLERS), value="dpm-solver++", label="Sampler", info="How noise is removed.")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Another seed, another sample.")
            again = gr.Button("Paint again", min_width=100, elem_id="sl-again")
        with gr.Row(elem_classes="sl-tools"):
            save_png = button("Download PNG", "sl-save-png")
            save_slots = button("Download slots (.npz)", "sl-save-npz")
            save_all = button("Download all (.zip)", "sl-save-all")
        gr.HTML(note(FILES))
    download = components.download()
    settings, painting = [state, model, steps, sampler, seed], [state, figure, status, stop]

    def act(change: Callable[..., Editing], now: Editing | None, name: str, *values: Any) -> Iterator[dict[Any, Any]]:
        """Changes the slots and paints them, with previews if the model samples."""
        now, loaded, (steps, sampler, seed, *more) = begun(now), find(name), values
        then = change(now, loaded, *more)
        if loaded.sampling is None:
            yield shown(replace(then, painted=paint_edit(loaded.model, then.scene, then.slots)))
            return
        chosen = replace(loaded.sampling, sampler=sampler, steps=int(steps))
        previews = paint_edit.steps(loaded.model, then.scene, then.slots, int(seed or 0), sampling=chosen)
        if not now.painting.acquire(blocking=False):
            raise ConfigError("The last edit is still being painted: wait, or stop it first.")
        now.stop.clear()
        shown_at = 0.0
        try:
            while not now.stop.is_set():
                done, total, images = next(previews)
                if monotonic() - shown_at > BETWEEN_PREVIEWS:
                    said = f"Painting: step {done} of {total}."
                    preview = edit_figure(then, images[0].cpu(), said)
                    yield {figure: preview, status: note(said), stop: gr.Button(visible=True)}
                    shown_at = monotonic()
            yield {**shown(now), status: note("Stopped; nothing was changed.")}
        except StopIteration as end:
            yield shown(replace(then, painted=end.value))
        finally:
            now.painting.release()

    def shown(now: Editing) -> dict[Any, Any]:
        return {state: now, figure: edit_figure(now), status: note(_status(now)), stop: gr.Button(visible=False)}

    for clicked, change, *more in (
        (remove, edit_session.remove),
        (duplicate, edit_session.duplicate),
        (undo, lambda now, _: now.at_step(now.at - 1)),
        (redo, lambda now, _: now.at_step(now.at + 1)),
        (restart, edit_session.begin_again),
        (again, lambda now, _: now),
        (put, edit_session.replace_by_other),
        (add, edit_session.add_other),
        (background, edit_session.take_background),
        (resize, edit_session.resize, size),
        (draw, edit_session.replace_by_concept, concept, member),
    ):
        at_work(clicked.click, partial(act, change), [*settings, *more], painting)

    def pointed(now: Editing | None, event: gr.EventData) -> dict[Any, Any]:
        before = begun(now)
        now = replace(before, selected=event.slot, placing=False)
        return shown(now) if before.placing else {state: now, status: note(_status(now))}

    def placed(
        now: Editing | None, name: str, steps: int, sampler: str, seed: float | None, event: gr.EventData
    ) -> Iterator[dict[Any, Any]]:
        side = begun(now).scene.image.shape[-1]
        place = [(at + 0.5) / side for at in (event.x, event.y)]
        yield from act(edit_session.move_to, now, name, steps, sampler, seed, *place)

    def moving(now: Editing | None) -> dict[Any, Any]:
        now = begun(now)
        now.chosen()
        return shown(replace(now, placing=not now.placing))

    def read_other(now: Editing | None, name: str, chosen: ChosenImage) -> tuple[Any, ...]:
        model = find(name).model
        scene = read_scene(model, chosen.at(model.resolution)[0])
        return replace(begun(now), other=scene, other_selected=None), edit_session.other_figure(scene)

    def other_pointed(now: Editing | None, event: gr.EventData) -> Editing:
        return replace(begun(now), other_selected=event.slot)

    def saved(name: str, now: Editing | None) -> dict[str, str]:
        return components.file(name, edit_session.edited_file(begun(now), name))

    at_once(figure.choose, pointed, state, painting)
    at_work(figure.place, placed, settings, painting)
    at_once(move.click, moving, state, painting)
    at_once(stop.click, lambda now: now.stop.set(), state, None)
    for made in choosers:
        at_work(made.success, read_other, [state, model, other_image], [state, other])
    at_once(other.choose, other_pointed, state, state)
    for clicked, name in ((save_png, "edited.png"), (save_slots, "slots.npz"), (save_all, "edit.zip")):
        at_work(clicked.click, partial(saved, name), state, download)

    def refresh(loaded: LoadedModel, chosen: ChosenImage, earlier: Editing | None) -> dict[Any, Any]:
        if loaded.painting is None:
            return {state: None, cannot: gr.HTML(visible=True), whole: gr.Column(visible=False)}
        now, defaults = earlier or edit_session.begin(loaded, chosen), loaded.sampling or SamplingSettings()
        sizes = [] if loaded.library is None else loaded.library.sizes
        names = [
            (f"{f'concept {number}' if number else 'background'}: {size:,} members", number)
            for number, size in enumerate(sizes)
        ]
        return {
            **shown(now),
            cannot: gr.HTML(visible=False),
            whole: gr.Column(visible=True),
            move: gr.Button(visible=loaded.can_move),
            resizing: gr.Row(visible=loaded.can_move),
            sampling: gr.Accordion(visible=loaded.sampling is not None),
            steps: gr.Slider(value=min(defaults.steps, MOST_SAMPLING_STEPS)),
            sampler: gr.Dropdown(value=defaults.sampler),
            no_library: gr.HTML(visible=not names),
            concepts: gr.Column(visible=bool(names)),
            concept: gr.Dropdown(choices=names, value=names[-1][1] if names else None),
            other: components.NO_GROUPS if now.other is None else edit_session.other_figure(now.other),
        }

    outputs = [*painting, cannot, whole, move, resizing, sampling, steps, sampler, no_library, concepts, concept, other]
    return View("Edit", outputs, refresh, state=state)


def _status(now: Editing) -> str:
    if now.placing:
        return f"Click where the centre of slot {now.selected} should be, or Move again to cancel."
    selected = "Nothing is selected." if now.selected is None else f"Slot {now.selected} is selected."
    if not now.painted.changed:
        return selected
    error = f"Mean squared error outside the edited region: {now.painted.outside_error:.2g}."
    return f"{selected} {now.steps[now.at][1].capitalize()}. {error}"

"""How a model uses its slots, in words: one explanation of each number, for the terminal and for reports."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.table import Table as TerminalTable

from slotlab.reporting.curves import figure_image
from slotlab.reporting.diagnosis_pictures import slot_use_figure
from slotlab.reporting.section import Picture, Section, Table

MASK_WORDS = {
    "masks": "the decoder's masks",
    "attention": "the attention masks",
    "posterior": "the posterior masks",
}


class Explained(NamedTuple):
    """A number of a diagnosis: its name, its value, what is healthy, and what it means."""

    title: str
    value: str
    healthy: str
    meaning: str


def explained(numbers: Mapping[str, Any]) -> list[Explained]:
    """Each number of `Diagnosis.numbers()` that is known, in plain words; what is healthy was measured.

    The protocol and the models are in docs/diagnostics.md.
    """
    slots = len(numbers["slot_use"])
    rows = [
        Explained(
            "slots used",
            f"{numbers['slots_used']:.2f} of {slots}",
            f"near {numbers['objects'] + 1:.2f}, objects + 1" if "objects" in numbers else "objects + 1",
            "slots that own more than 0.5 % of an image; about 1: collapsed",
        ),
        Explained(
            "mask entropy",
            f"{numbers['mask_entropy']:.3f}",
            "below 0.15",
            "0: each pixel belongs to one slot; 1: all slots share it evenly",
        ),
    ]
    if numbers["attention_changes"]:
        changes = ", ".join(f"{change:.3f}" for change in numbers["attention_changes"])
        meaning = "share of the attention that moves to another slot in each iteration after the first"
        rows.append(Explained("attention change", changes, "last below 0.1", meaning))
    if "likeness" in numbers:
        true = numbers.get("true_likeness")
        healthy = "below 0.3" if true is None else f"near {true:.2f}, the true masks'"
        meaning = "ARI between segmentations of different images; near 1, masks ignore the image (tiling)"
        rows.append(Explained("likeness", f"{numbers['likeness']:.3f}", healthy, meaning))
    if "background_slots" in numbers:
        meaning = "slots that own more than a tenth of the true background each"
        rows.append(Explained("background slots", f"{numbers['background_slots']:.2f}", "1", meaning))
    dead = ", ".join(map(str, numbers["dead_slots"])) or "none"
    rows.append(Explained("dead slots", dead, "none", "slots that own more than 0.5 % of no image at all"))
    pairs = "".join(f"; {one} and {other}: {share:.0%}" for one, other, share in numbers["duplicate_pairs"])
    meaning = "pairs of slots per image that hold the same thing; those named do in so many images"
    rows.append(Explained("duplicate slots", f"{numbers['duplicates']:.2f}{pairs}", "below 1", meaning))
    return rows


def diagnosis_table(numbers: Mapping[str, Any], caption: str) -> TerminalTable:
    """The numbers of a diagnosis for the terminal."""
    table = TerminalTable(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", caption_style="dim")
    for heading in ("", "value", "healthy", "what it is"):
        table.add_column(heading)
    for row in explained(numbers):
        table.add_row(*row)
    return table


def diagnosis_section(numbers: Mapping[str, Any]) -> Section:
    """A report's section on how the slots are used."""
    source = MASK_WORDS.get(numbers.get("mask_source", ""))
    text = (
        f"How {numbers['images']:,} images share the slots among them, by {source or 'the masks'}. What is healthy was "
        "measured on trained models; numbers outside are signs, not proofs."
    )
    rows = [[row.title, row.value, row.healthy, row.meaning] for row in explained(numbers)]
    use = ", ".join(f"slot {slot} {share:.0%}" for slot, share in enumerate(numbers["slot_use"]))
    picture = Picture(figure_image(slot_use_figure(numbers)), f"Share of images in which each slot is used: {use}")
    return Section(
        "How slots are used", text, tables=[Table("", ["", "value", "healthy", "what it is"], rows)], pictures=[picture]
    )

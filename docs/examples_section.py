"""What Griffe should know of the docstrings and signatures here."""

import re
from typing import Any

import griffe


class ExamplesSection(griffe.Extension):
    """Shows `Example:` sections as code, and what a function `in_steps` returns at its end."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section of one object: Griffe knows the plural only."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Takes the result from `Generator[..., None, Result]`."""
        result = re.fullmatch(r"Generator\[.*, None, (.*)\]", str(func.returns))
        if result is not None and any(str(one.value) == "in_steps" for one in func.decorators):
            func.returns = result[1]

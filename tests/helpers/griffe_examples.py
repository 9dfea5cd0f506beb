"""For the documentation site: the `Example:` of a docstring is code, not text."""

import re
from typing import Any

import griffe

BARE = re.compile(r"(?m)^(?=>>> )")


class Examples(griffe.Extension):
    """Spell the section as `griffe` knows it; an example without a heading gets one."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring that was read, not the one in the file."""
        if obj.docstring is None:
            return
        text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
        if "Examples:" not in text and (found := BARE.search(text)):
            before, after = text[: found.start()], text[found.start() :]
            text = before + "Examples:\n" + re.sub(r"(?m)^(?=.)", "    ", after)
        obj.docstring.value = text

"""How other programs are started: pip, a converter, a server."""

from subprocess import DEVNULL
from typing import Any

TEXT: dict[str, Any] = {"stdin": DEVNULL, "encoding": "utf-8", "errors": "replace"}
"""For `subprocess`: the program can ask nothing, and what it says is text, whatever its bytes are."""

"""Which hubs there are, in which order they are asked, whether they answer, and which token is theirs.

The hub libraries read `HF_ENDPOINT` when they are imported (pitfall mirror-set-too-late), so the endpoint is passed
to them explicitly.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from course_utils.hub import fetch
from course_utils.hub.fetch import DownloadError, SourceError

ENDPOINTS = {
    "mirror": "https://hf-mirror.com",
    "huggingface": "https://huggingface.co",
    "modelscope": "https://modelscope.cn",
}
"""The hubs, in the order in which `source="auto"` tries them unless the variable COURSE_SOURCES names another."""

ORDER_VARIABLE = "COURSE_SOURCES"
REACH_SECONDS = 4.0  # a hub that does not answer by then counts as out of reach


@dataclass(frozen=True)
class LateVariable:
    """A variable that was set, changed or removed after `huggingface_hub` had read it."""

    name: str
    environment: str | None  # its value now, None where it is not set
    held: str  # what the library goes by


def late_variables() -> list[LateVariable]:
    """The variables that `huggingface_hub` does not go by, because it was imported before they were set.

    Returns:
        HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, as far as they differ; nothing before the library is imported.
    """
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        return []
    variables = os.environ
    cache = variables.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = variables.get("HF_HOME", os.path.join(cache, "huggingface"))
    now_and_held = {  # the library's own formulas
        "HF_ENDPOINT": (variables.get("HF_ENDPOINT", ENDPOINTS["huggingface"]).rstrip("/"), constants.ENDPOINT),
        "HF_HOME": (os.path.expandvars(os.path.expanduser(home)), constants.HF_HOME),
        "HF_HUB_OFFLINE": (str(_asked_offline()), str(constants.HF_HUB_OFFLINE)),
    }
    shown = {name: re.sub(r"(?<=//).*(?=@)|\?.*", "***", variables[name]) for name in now_and_held if name in variables}
    return [LateVariable(name, shown.get(name), held) for name, (now, held) in now_and_held.items() if now != held]


def _asked_offline() -> bool:
    """Whether the environment asks for no network now (the library's own rule)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _addresses() -> dict[str, str]:
    """The hubs' addresses; HF_ENDPOINT takes the place of the mirror's."""
    own = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return ENDPOINTS | ({"mirror": own} if own else {})


def chosen(source: str, endpoint: str | None) -> dict[str, str]:
    """The hubs to ask and their addresses, in order, by the arguments of `snapshots.download`.

    Raises:
        DownloadError: a variable forbids the network, names an unknown hub or was set too late, or an address is none.
    """
    library: Any = sys.modules.get("huggingface_hub.constants")
    if _asked_offline() or (library and library.HF_HUB_OFFLINE):
        raise DownloadError(
            "HF_HUB_OFFLINE is in force, so no hub is asked, and what is wanted is not on disk. Unset it (and "
            "TRANSFORMERS_OFFLINE), restart the kernel, then run this again."
        )
    addresses = _addresses()
    if source == "auto" and endpoint is None:
        names = [name.strip() for name in os.environ.get(ORDER_VARIABLE, "").split(",") if name.strip()]
        if unknown := set(names) - set(ENDPOINTS):
            raise DownloadError(
                f"{ORDER_VARIABLE} names {', '.join(sorted(unknown))}. It is a list of {', '.join(ENDPOINTS)} with "
                f"commas between, such as modelscope,mirror."
            )
        hubs = {name: addresses[name] for name in names or ENDPOINTS}
    else:
        kind = "mirror" if source == "auto" else source
        hubs = {kind: (endpoint or addresses[kind]).rstrip("/")}
    for address in hubs.values():
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or set(address) & {"@", "?"}:
            raise DownloadError(  # without the address: it may hold a password
                "An endpoint (endpoint=, or the variable HF_ENDPOINT) is an http or https address without a user's "
                "name or a query, such as https://hf-mirror.com."
            )
    late = [variable for variable in late_variables() if variable.name == "HF_ENDPOINT" and variable.environment]
    if late and endpoint is None and "mirror" in hubs:
        raise DownloadError(
            f"HF_ENDPOINT was set to {late[0].environment} after huggingface_hub was imported, which goes on with "
            f"{late[0].held}. Pass the address with the call (endpoint=…), or set the variable before "
            f"the first import (restart the kernel)."
        )
    return hubs


def reachable(seconds: float = REACH_SECONDS) -> dict[str, str | None]:
    """Ask all hubs at once whether they answer.

    Args:
        seconds: for all of them together; a name server that hangs costs no more.

    Returns:
        For each key of ENDPOINTS None where the hub answers, else the reason why it does not.
    """
    no_answer = ask(_addresses(), seconds)
    return {kind: no_answer(kind) for kind in ENDPOINTS}


def ask(hubs: Mapping[str, str], seconds: float = REACH_SECONDS) -> Callable[[str], str | None]:
    """Ask all hubs at once; what is returned waits for the named one, and gives the reason why it does not answer."""
    deadline = time.monotonic() + seconds
    asked = {kind: fetch.start(_head, address, seconds) for kind, address in hubs.items()}

    def no_answer(kind: str) -> str | None:
        try:
            asked[kind].result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return "no answer in time"
        except Exception as error:
            return fetch.words(error)
        return None

    return no_answer


def _head(address: str, seconds: float) -> None:
    """Raise unless something at `address` speaks HTTP; where it redirects to does not matter."""
    import httpx

    httpx.head(address, timeout=seconds, verify=fetch.certificates())


def token_of(kind: str, address: str) -> str:
    """The token of the learner's environment or login for the hub `kind` at `address`, "" where there is none.

    Raises:
        SourceError: it could not be read, or it holds characters that no token has.
    """
    try:
        if kind == "modelscope":
            from modelscope_hub.config import HubConfig

            token = HubConfig(endpoint=address).token or ""
        else:
            from huggingface_hub import get_token

            token = get_token() or ""
    except Exception as error:
        raise SourceError(f"the token could not be read ({type(error).__name__})") from None
    if not re.fullmatch(r"[!-~]*", token):  # the libraries would print it in their error
        raise SourceError("the token holds characters that no token has; log in again, or correct the variable")
    return token

"""What a look finds is told under the name of its thing; one that is refused finds the reason, and stops no other."""

from __future__ import annotations

from collections.abc import Callable

from .. import telling
from ..refused import Refused


def tell(name: str, look: Callable[[], str]) -> None:
    """ "" is what is not there."""
    try:
        text = look()
    except Refused as no:
        text = no.message
    except OSError as error:
        text = f"{error.filename}: {error.strerror}"
    telling.found(name, text)


def text_of(content: bytes) -> str:
    """Bytes that are no text travel too."""
    return content.decode("utf-8", "surrogateescape")

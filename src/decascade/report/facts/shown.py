"""How facts are shown.  They know no renderer: the room `report` installs one when it is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType


class Renderer(Protocol):
    """Facts as plain text of 80 columns, as something that rich prints, as a page, and as a frame for notebooks."""

    def text(self, facts: Any) -> str: ...

    def rich(self, facts: Any) -> RenderableType: ...

    def page(self, facts: Any) -> str: ...

    def inline(self, facts: Any) -> str: ...


_installed = list[Renderer]()


def install(renderer: Renderer) -> None:
    """From now on facts are shown by this one."""
    _installed[:] = [renderer]


def renderer() -> Renderer:
    """The one that was installed."""
    return _installed[0]

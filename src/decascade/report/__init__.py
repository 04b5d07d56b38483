"""Facts, and how they are shown: on a terminal, or as a page.  A renderer is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decascade.report.facts.shown import install

if TYPE_CHECKING:
    from rich.console import RenderableType


class _Renderer:
    """One per kind of facts."""

    def text(self, facts: Any) -> str:
        from decascade.report.terminal.text import text_of

        return text_of(facts)

    def rich(self, facts: Any) -> RenderableType:
        from decascade.report.terminal.report import render

        return render(facts)

    def page(self, facts: Any) -> str:
        from decascade.report.html.page import page

        return page(facts)

    def inline(self, facts: Any) -> str:
        from decascade.report.html.page import inline

        return inline(facts)


install(_Renderer())

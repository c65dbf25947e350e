"""Tables and lists of facts, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forgetcli.cli.visible import visible
from forgetcli.cli.wrapping import wrapped

if TYPE_CHECKING:
    from rich.table import Table


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str = "",
) -> Table:
    """A plain table; a column whose name starts with ``>`` is right-aligned.

    On a narrow terminal left-aligned cells are wrapped between words. A table that would not fit
    even so is shown as a list: a line for each cell, after its column's name.

    Titles, names and cells are text, never markup. Escaped here already, so that columns fit.
    """
    # Imported here: a command that prints no table must not wait for rich.
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

    heads = [visible(column.lstrip(">"), keep="") for column in columns]
    texts = [[visible(str(cell), keep="") for cell in row] for row in rows]
    aligned_right = [column.startswith(">") for column in columns]
    widest = [max(map(cell_len, cells)) for cells in zip(heads, *texts)]
    narrowest = [
        width if right else max(cell_len(word) for cell in cells for word in cell.split() or [""])
        for width, right, cells in zip(widest, aligned_right, zip(heads, *texts))
    ]

    class Fitting(Table):
        """A table that a terminal of any width can show."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            # A space at both edges, and three between columns, or two if that makes them fit.
            gaps = len(columns) - 1
            room = options.max_width - 2 - 2 * gaps
            if title:
                # Rich would wrap it to the width of the table.
                yield Text(visible(title), style="table.title")
            if sum(narrowest) > room:
                yield Text(as_list(heads, texts, options.max_width))
                return
            self.collapse_padding = sum(narrowest) > room - gaps
            room -= 0 if self.collapse_padding else gaps
            for column, width in zip(self.columns, shared_out(room, narrowest, widest)):
                column.width = width
            yield from super().__rich_console__(console, options)

    result = Fitting(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for head, right in zip(heads, aligned_right):
        result.add_column(Text(head), justify="right" if right else "left", overflow="fold")
    for row in texts:
        result.add_row(*map(Text, row))
    return result


def shared_out(room: int, narrowest: Sequence[int], widest: Sequence[int]) -> list[int]:
    """Widths of columns, each between two bounds; the largest one is reduced first."""
    widths = list(widest)
    while sum(widths) > room:
        reducible = [n for n, width in enumerate(widths) if width > narrowest[n]]
        widths[max(reducible, key=widths.__getitem__)] -= 1
    return widths


def as_list(heads: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> str:
    """A table as lines: the first cell of a row, then the others, indented, by column."""
    lines = []
    for first, *others in rows:
        lines += ["", f"{heads[0]}: {first}" if heads[0] else str(first)]
        lines += [
            f"  {head}: {cell}" if head else f"  {cell}"
            for head, cell in zip(heads[1:], others)
            if str(cell)
        ]
    return "\n".join(wrapped(line, width) for line in [*lines, ""])


def facts(values: Mapping[str, Any], indent: int = 0) -> str:
    """``key: value`` lines, nested ones indented; of a long list only its length."""
    lines = []
    for key, value in values.items():
        head = f"{' ' * indent}{key.replace('_', ' ')}:"
        if isinstance(value, Mapping):
            lines += [head, facts(value, indent + 2)] if value else []
        elif isinstance(value, list | tuple):
            short = (
                all(not isinstance(item, list | tuple | Mapping) for item in value)
                and len(value) <= 12
            )
            text = ", ".join(map(str, value)) if short else str(len(value))
            lines.append(f"{head} {visible(text, keep='')}")
        elif value is not None:
            lines.append(f"{head} {visible(str(value), keep='')}")
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people: 2.7 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

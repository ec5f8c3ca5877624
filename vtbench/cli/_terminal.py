"""What all commands share: the app, the two consoles, what is said where, and how a text reaches a terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup, TyperOption

from vtbench.errors import ToldError, VtbenchError

ORDER = ("run", "demo", "list", "show", "fetch", "leaderboard", "report", "plot", "sheet", "compare", "check")
"""Commands as their help lists them: first what most users want; the others follow."""


class _Commands(TyperGroup):
    """All commands."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  the library's own
        """Name them in the order of ORDER."""
        others = [name for name in super().list_commands(ctx) if name not in ORDER]
        return [*ORDER, *others]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """List them, each with its whole sentence."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, command.get_short_help_str(limit=200)) for name, command in found.items() if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
        """Find the command, and refuse a second value where one counts: the last would pass for all."""
        name, command, rest = super().resolve_command(ctx, args)
        for option in command.params if command else ():
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag):
                times = sum(word.partition("=")[0] in option.opts for word in rest)
                if times > 1:
                    raise typer.BadParameter(
                        f"{option.opts[0]} is given {times} times; it takes one value, leave one out"
                    )
        return name, command, rest


app = typer.Typer(
    cls=_Commands,
    help="Benchmark visual tokenizers: same pixels for everybody, every number tagged with how it was made.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(markup=False, highlight=False, emoji=False)
complaints = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

CardsOption = Annotated[Path | None, typer.Option("--cards", help="A further folder of cards.")]
WorkOption = Annotated[
    Path, typer.Option("--work", help="Folder of the shards while running; of run.json and images.parquet after.")
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of the summaries.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


class _ToComplaints(logging.Handler):
    """Says what the library tells its user on the error console, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        complaints.print(f"vtbench: {one_line(record.getMessage())}")


class _Output(io.FileIO):
    """A stream of this process that outlives its reader: what nobody takes is dropped, and the command goes on."""

    lost: str | None = None
    """Why something that somebody waits for was not written."""

    def write(self, content: Any) -> int:  # noqa: ANN401  any buffer
        try:
            return super().write(content) or 0
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # `vtbench list | head -1` waits for no more
                self.lost = error.strerror
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(content)


def _outliving(stream: io.TextIOWrapper) -> tuple[io.TextIOWrapper, _Output]:
    raw = _Output(stream.fileno(), "w", closefd=False)
    made = io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering
    )
    return made, raw


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """End the process with code 2 where its user can mend something, and say what that is."""
    try:
        yield
    except ToldError:  # by rank 0 of a team
        sys.exit(2)
    except VtbenchError as error:
        complaints.print(f"vtbench: {one_line(error)}")
        sys.exit(2)


def prepare() -> Callable[[], str | None]:
    """Let output reach any terminal: what it can't show is escaped, and what the library tells goes to stderr.

    Returns:
        Flushes the standard output, and says why something of it was not written.
    """
    output: _Output | None = None
    if isinstance(sys.stdout, io.TextIOWrapper):  # None where the command was started without one
        sys.stdout, output = _outliving(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr, _ = _outliving(sys.stderr)
    log = logging.getLogger("vtbench")
    if not any(isinstance(handler, _ToComplaints) for handler in log.handlers):
        log.addHandler(_ToComplaints())
    log.propagate = False

    def lost() -> str | None:
        if output is None:
            return None
        sys.stdout.flush()
        return output.lost

    return lost


def one_line(text: object) -> str:
    """Show a text of somebody's in one line, its control characters and escape sequences escaped."""
    joined = " ".join(str(text).split())
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "backslashreplace").decode() for sign in joined
    )


def plain(value: object) -> str:
    """Show a value in a cell."""
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return "" if value is None else one_line(value)


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    left: Sequence[int] = (0,),
    gap: int = 2,
    turns: bool = False,
) -> None:
    """Print a table at its natural width: one whose numbers are cut off to fit a narrow terminal says nothing.

    Texts in the last column fold between words where a terminal is narrower; into a file or a pipe a row is one line.

    Args:
        heads: of the columns.
        rows: cells of any type.
        title: a line above.
        left: columns that are texts; the others are numbers and end at the right.
        gap: blanks between two columns.
        turns: whether rows may become columns on a terminal that is too narrow, where that takes less room.
    """
    if title:
        console.print(one_line(title), soft_wrap=True)
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap - 1, 0, 1))
    lines = [[plain(value) for value in row] for row in rows]
    width = _widths(heads, lines)
    if turns and console.is_terminal and sum(width) + gap * (len(width) - 1) > console.width:
        (first, *others) = ([*column] for column in zip(heads, *lines, strict=True))
        if sum(_widths(first, others)) < sum(width):
            heads, lines, width = first, others, _widths(first, others)
    folds = console.is_terminal and len(heads) - 1 in left
    if folds:
        words = [word for column in (heads, *lines) for word in column[-1].split()]
        room = console.width - sum(width[:-1]) - gap * (len(width) - 1)
        width[-1] = min(width[-1], max(room, *map(cell_len, words), 1))
    for column, head in enumerate(heads):
        wraps = folds and column == len(heads) - 1
        drawn.add_column(
            Text(head),
            justify="left" if column in left else "right",
            no_wrap=not wraps,
            max_width=width[column],
        )
    for line in lines:
        drawn.add_row(*map(Text, line))
    needed = sum(width) + gap * (len(width) - 1)
    Console(width=max(console.width, needed), markup=False, highlight=False).print(drawn)


def _widths(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(heads, *lines, strict=True)]


def fields(said: dict[str, Any]) -> None:
    """Print names and values, without the empty ones."""
    rows: list[tuple[str, str]] = []
    for key, value in said.items():
        if isinstance(value, dict):
            rows += [(f"{key}.{inner}", plain(what)) for inner, what in value.items() if what not in _EMPTY]
        elif value not in _EMPTY:
            rows.append((key, plain(value)))
    if not console.is_terminal:  # a value is one line: a path that is broken can't be copied
        wide = max((cell_len(key) for key, _ in rows), default=0)
        for key, value in rows:
            console.print(f"{key}{' ' * (wide - cell_len(key))} {value}", soft_wrap=True)
        return
    drawn = Table(box=None, show_header=False, pad_edge=False)
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for key, value in rows:
        drawn.add_row(Text(key), Text(value))
    console.print(drawn)


_EMPTY: tuple[object, ...] = (None, "", [], {}, ())

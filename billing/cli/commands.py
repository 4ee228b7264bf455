"""What every command of `metergate` stands on: how a function becomes one, the options that several take, what is shown
and asked at the terminal, and how a command fails.

`add_command` takes a function, mostly an async one, whose first parameter is the `Output`; its others are the command's
own options and arguments, as typer wants them, or dataclasses of them that several commands have; its docstring is the
help. The common options (`Common`) are added, which every command takes, so that scripts can give them to any; the help
of a command names those that it uses. The event loop is run, and a `CommandFailed` becomes a sentence and an exit code:

0  done     1  refused     2  wrong usage     3  unreachable

A group names its commands by the functions that add them, as `module:function`, and loads a module when one of its
commands is called or all are shown (https://click.palletsprojects.com/en/stable/complex/#lazily-loading-subcommands).
So that help is quick, modules of commands import what only their help needs. What a command works with is imported
inside its function: aiohttp, the drivers of both stores and the gateway take ten times as long as everything else.

A quota is `window:metric=limit`, with `@model` for some models alone:

    day:tokens=100000      month:cost=12.50      minute:requests=60@gpt-4*

A result goes to stdout or into a file, progress to stderr. A terminal gets tables and colour, anything else plain
aligned text. Text from elsewhere is shown without control characters, so that no name can drive a terminal. A command
that fails says so in one plain sentence on stderr, never in a traceback.

Before money moves a command says what it is about to do, and by which means, and goes on after a yes; `--yes` is the
answer of scripts. A secret is asked for without echo, or read from stdin or a variable: never from an argument, which
every user of a machine may see. Where nobody can be asked, nothing is done.
"""

import copy
import functools
import inspect
import os
import re
import secrets
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    BinaryIO,
    ClassVar,
    Final,
    Self,
    TextIO,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import typer
from msgspec import structs
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from billing.errors import MetergateError
from billing.pages import DEFAULT_LIMIT, MAX_LIMIT
from billing.quotas import Metric, QuotaError, parse_quota
from billing.schemas.base import DEFAULT_TIMEOUT_S, shown
from billing.schemas.quotas import QuotaShape

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

_PANEL: Final = "Options of every command"
LEAST_TIMEOUT_S: Final = 0.1
MAX_TIMEOUT_S: Final = 86_400.0
_DURATION: Final = re.compile(
    r"(?=[\d.])(?:(?P<hours>\d{1,2})h)?(?:(?P<minutes>\d{1,4})m)?(?:(?P<seconds>\d{1,5}(?:\.\d{1,9})?|\.\d{1,9})s?)?",
    re.ASCII,
)
_QUOTA: Final = re.compile(r"(?P<window>[^:=@]+):(?P<metric>[^:=@]+)=(?P<limit>[^@]+)(?:@(?P<model>.+))?")
EXPECTED: Final = "expected window:metric=limit, such as day:tokens=100000 or month:cost=12.50@gpt-4*"
# The fields of `Common` that a command uses which shows a result.
RESULT: Final = frozenset({"output", "quiet", "json"})
# And one that bounds its calls.
TIMED: Final = RESULT | {"timeout_s"}
# And one that calls a gateway.
REMOTE: Final = TIMED | {"api_url", "token_file"}


def parse_timeout_s(given: str | float) -> float:
    """Return the seconds of `30`, `0.5`, `90s` or `1m30s`. Raises `typer.BadParameter`."""
    match = _DURATION.fullmatch(str(given))
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not LEAST_TIMEOUT_S <= total_s <= MAX_TIMEOUT_S:
        raise typer.BadParameter(f"{given} is no time from {LEAST_TIMEOUT_S} s to 24h, such as 30, 90s or 1m30s.")
    return total_s


AccountId = Annotated[str, typer.Argument(help="The account's id, acc_...", show_default=False)]


def parse_quota_text(text: str) -> QuotaShape:
    """Return a quota as the API takes it. Raises `QuotaError`."""
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise QuotaError(EXPECTED)
    fields: dict[str, object] = {name: value for name, value in match.groupdict().items() if value is not None}
    limit = match["limit"]
    if match["metric"] != Metric.cost.name and limit.isascii() and limit.isdigit():
        fields["limit"] = int(limit)
    shape: QuotaShape = shown(parse_quota(fields))
    return shape


def quotas_of(texts: Iterable[str]) -> list[QuotaShape]:
    """Return the quotas of an option given several times. Raises `typer.BadParameter`, which names the wrong one."""
    quotas = []
    for text in texts:
        try:
            quotas.append(parse_quota_text(text))
        except QuotaError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint="--quota") from error
    return quotas


def quota_text(quota: QuotaShape) -> str:
    """Return the text of a quota, as `parse_quota_text` reads it; a feature, which it has no text for, stands in
    brackets."""
    model = f"@{quota.model}" if quota.model else ""
    feature = f" [{quota.feature}]" if quota.feature else ""
    return f"{quota.window}:{quota.metric}={quota.limit}{model}{feature}"


def quotas_text(quotas: Iterable[QuotaShape]) -> str:
    """Return the texts of several in one cell."""
    return ", ".join(map(quota_text, quotas)) or "none"


def new_key() -> str:
    """Return an idempotency key of our own."""
    from ulid import ULID

    return str(ULID())


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def some_change(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a change. Raises `typer.BadParameter` for none."""
    if not changes:
        raise typer.BadParameter("nothing to change was given; see --help")
    return changes


Limit = Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most to show.")]
Cursor = Annotated[
    str | None, typer.Option(metavar="CURSOR", help="Where the page before ended, as it was printed there.")
]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is shown."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = None

    @property
    def asked(self) -> dict[str, Any]:
        """Return what an operation is asked for."""
        return {"limit": self.limit, "cursor": self.cursor}


FIRST_PAGE: Final = Paging()


@dataclass(frozen=True, slots=True)
class Common:
    """What was given of the options of every command."""

    api_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A gateway's address; else METERGATE_API_URL, the data folder's `metergate up`, or the stores.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that holds the key or token for the gateway, instead of a variable or the sign-in.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            parser=parse_timeout_s,
            help="Longest time for one call: seconds, or such as 90s or 1m30s.",
            rich_help_panel=_PANEL,
        ),
    ] = DEFAULT_TIMEOUT_S
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the result to a file (mode 600 when it is new) instead of stdout.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No result and no progress: errors alone.", rich_help_panel=_PANEL)
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="The result as one line of JSON, for scripts.", rich_help_panel=_PANEL)
    ] = False


REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
# A result may hold a secret.
FILE_MODE: Final = 0o600
_GAP: Final = "  "
# Characters of a line that a column of several words has at least.
LEAST_WRAPPED: Final = 16


class CommandFailed(MetergateError):
    """Ends a command with a sentence on stderr and an exit code."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts. Without headers, the first column names what the second says."""

    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A command's result: `data` for `--json`, `parts` for people, one below the other; `notes` go to stderr. A file
    with a `secret` gets mode 600 though it was there before; what is `silent` was written already."""

    data: object
    parts: tuple[str | Table, ...]
    notes: tuple[str, ...] = ()
    secret: bool = False
    silent: bool = False


class Output:
    """Where a command's result goes. Made before the command does anything, so that no result is lost to a bad path."""

    def __init__(self, common: Common, stdout: TextIO, stderr: TextIO) -> None:
        self.common = common
        self._stdout, self._stderr = stdout, stderr
        self._written = False

    @classmethod
    @contextmanager
    def opened(cls, common: Common) -> Iterator[Self]:
        """Yield the output that the options ask for. Raises `CommandFailed` for a file that can't be written."""
        if common.output is None:
            yield cls(common, sys.stdout, sys.stderr)
            return
        with _open_private(common.output) as file:
            yield cls(common, file, sys.stderr)

    @property
    def is_terminal(self) -> bool:
        """Return whether the result goes to a terminal."""
        return self._stdout.isatty()

    def show(self, shown: Shown) -> None:
        """Show the result: in the form that the options ask for, or not at all."""
        for note in shown.notes:
            self.note(note)
        if shown.silent:
            return
        if shown.secret and self.common.output is not None:
            self._make_private()
        if self.common.json:
            self._write(msgspec.json.encode(shown.data).decode())
        elif not self.common.quiet:
            for part in shown.parts:
                self._write(printable(part)) if isinstance(part, str) else self._table(part)

    def must_show(self, lines: Sequence[str]) -> None:
        """Show lines that can't be had again, with --quiet too; with --json they must be in the result instead."""
        if not self.common.json:
            self._write("\n".join(map(printable, lines)))

    def note(self, text: str) -> None:
        """Show progress or a warning, on stderr: left out with --quiet."""
        if not self.common.quiet:
            self.error(text)

    def error(self, text: str) -> None:
        """Show a line on stderr, always. One that nobody can read any more, as its terminal was closed, keeps nothing
        from going on, least of all a stop in order."""
        with suppress(OSError):
            self._stderr.write(f"{printable(text)}\n")
            self._stderr.flush()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say on stderr what is being done, and how long it took."""
        started = time.monotonic()
        yield
        self.note(f"{what} ({time.monotonic() - started:.1f} s)")

    @contextmanager
    def as_stdout(self) -> Iterator[None]:
        """Have the results of others go where this one goes. A file begins anew, with mode 600: they may be secret."""
        self._make_private()
        self._stdout.truncate(0)
        with redirect_stdout(self._stdout):
            yield

    def flush(self) -> None:
        """Have what was written so far go out, before `write_bytes`."""
        self._stdout.flush()

    def write_bytes(self, part: bytes) -> None:
        """Write a part of a result as it is. Raises `OSError`."""
        if self.common.output is not None and not self._written:
            self._stdout.truncate(0)
        self._written = True
        self._stdout.buffer.write(part)
        self._stdout.buffer.flush()

    def _make_private(self) -> None:
        """Keep a file that was there before from being read by others, before a secret goes there."""
        descriptor = self._stdout.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, FILE_MODE)

    def _write(self, text: str) -> None:
        if self.common.output is not None and not self._written:
            self._stdout.truncate(0)
        self._written = True
        self._stdout.write(f"{text}\n")
        self._stdout.flush()

    def _table(self, table: Table) -> None:
        rows = [tuple(printable(cell) for cell in row) for row in table.rows]
        if not self.is_terminal:
            self._write("\n".join(_aligned(table.headers, rows)))
            return
        _print_table(self._stdout, table.headers, rows)


# What shows an answer, by it and by what the command was given.
Show = Callable[[Any, Mapping[str, Any]], Shown]
# A column of a list: a field of its rows, or what it is called and a field, or a function of a row.
Column = str | tuple[str, str | Callable[[Any], Any]]


def columns(*of: Column) -> Show:
    """Return what shows a page of a list as a table."""
    return lambda page, _: listed(page, *of)


def facts(*of: Column) -> Show:
    """Return what shows an answer as a table of names and values."""
    return lambda answer, _: details(answer, [(title(each), cell_of(answer, each)) for each in of])


def says(sentence: str) -> Show:
    """Return what shows an answer as a sentence, a template of its fields and of what was given."""
    return lambda answer, given: Shown(answer.received, (sentence.format_map({**given, **structs.asdict(answer)}),))


def listed(page: Any, *of: Column) -> Shown:
    """Return a page of a list, or a list that has no pages, as a table, and how to get the next one."""
    rows = [tuple(cell_of(row, each) for each in of) for row in page.data]
    return Shown(page.received, page_parts(tuple(map(title, of)), rows, getattr(page, "next_cursor", None)))


def title(column: Column) -> str:
    """Return what a column is called: that of `last_used_at` is `last used`."""
    if not isinstance(column, str):
        return column[0]
    return re.sub("_(id|at)$", "", column).replace("_usd", " USD").replace("_", " ")


def cell_of(row: Any, column: Column) -> str:
    """Return the cell of a row in a column."""
    of = column if isinstance(column, str) else column[1]
    return cell(getattr(row, of) if isinstance(of, str) else of(row))


def cell(value: object) -> str:
    """Return a value in a cell."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
    return str(value)


def details(found: Any, rows: Sequence[tuple[str, str]], *more: str, secret: bool = False) -> Shown:
    """Return an answer as a table of names and values, and what stands below it."""
    return Shown(found.received, (Table((), rows), *more), secret=secret)


def page_parts(
    headers: tuple[str, ...], rows: Sequence[tuple[str, ...]], cursor: str | None
) -> tuple[str | Table, ...]:
    """Return a page of a list, and how to get the next one."""
    parts: list[str | Table] = [Table(headers, rows)] if rows else ["There are none."]
    if cursor is not None:
        parts.append(f"There are more: --cursor {cursor}")
    return tuple(parts)


def printable(text: str) -> str:
    """Return the text without control characters; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _aligned(headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [headers, *rows] if headers else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _print_table(terminal: TextIO, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of texts without control characters; without headers the first column names what the second says.
    Only columns of several words are wrapped: an id must stay whole to be copied. Where the others leave those too
    little of a line, rows are printed as into a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console, columns = Console(file=terminal), list(zip(*rows, strict=True))
    names = headers or ("",) * len(columns)
    whole = [not any(" " in cell for cell in column) for column in columns]
    least = [
        max(len(name), *map(len, column)) if is_whole else LEAST_WRAPPED
        for name, column, is_whole in zip(names, columns, whole, strict=True)
    ]
    if sum(least) + 3 * len(least) + 1 > console.width:  # with the padding and the box
        terminal.writelines(f"{line}\n" for line in _aligned(headers, rows))
        return
    shown = RichTable(box=box.SIMPLE_HEAD if headers else None, show_header=bool(headers))
    for name, is_whole in zip(names, whole, strict=True):
        shown.add_column(name, overflow="fold", no_wrap=is_whole, style=None if headers else "default")
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)


@contextmanager
def _open_private(path: Path) -> Iterator[TextIO]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error.strerror}. Give --output another path.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield file


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, mode 600, which takes the place of `path` once it is on the disk, and is removed where something
    fails. Raises `CommandFailed`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"Cannot write {path}: {error.strerror}.") from error


# A function of an `Output` and a command's own options, mostly async; answers the exit code, None for 0.
Work = Callable[..., Coroutine[Any, Any, int | None] | int]
# An async function of a `BillingCalls` or a `Session`, and a command's own options.
Call = Callable[..., Awaitable[Shown]]
# How to reach the billing API by what the output's options say; raises `CommandFailed` where that can't be.
Connect = Callable[[Output], AbstractAsyncContextManager["BillingCalls"]]

_HINTS: Final = get_type_hints(Common, include_extras=True)
_TEXTS: Final = (str, list[str])


def _common_parameters(used: Collection[str]) -> list[inspect.Parameter]:
    """Return the common options; those that a command does not use are taken, and left out of its help."""
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=_HINTS[each.name] if each.name in used else _hidden(_HINTS[each.name]),
        )
        for each in fields(Common)
    ]


def _hidden(annotation: Any) -> Any:
    assert get_origin(annotation) is Annotated  # noqa: S101  (fields of Common are)
    kind, option = get_args(annotation)
    option = copy.copy(option)
    option.hidden = True
    return Annotated[kind, option]


def _quickened(parameters: list[Any]) -> list[Any]:
    """Return a command's parameters, which read themselves what is not given, texts, and lists of them. For all others
    typer loads pydantic, which takes a fifth of a short command's time."""
    for each in parameters:
        if "process_value" not in vars(each):
            each.process_value = functools.partial(_read, each, each.process_value)
    return parameters


def _read(parameter: Any, read: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """Return what `read`, which is typer's, would return."""
    several, is_text = parameter.multiple or parameter.nargs == -1, parameter.type_descriptor.annotation in _TEXTS
    if value is None and not parameter.required:
        value = () if several else None
    elif is_text and several and value and all(type(each) is str for each in value):
        value = list(value)
    elif value is None or (value is not parameter.default and not (is_text and type(value) is str)):
        return read(context, value)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        """Return the group's own options."""
        return _quickened(super().get_params(ctx))


class _Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return options and arguments."""
        return _quickened(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What `metergate run` was given stands for what this line of its file leaves out."""
        defaults = ctx.find_object(Common)
        for each in fields(Common) if defaults is not None else ():
            if ctx.get_parameter_source(each.name).name == "DEFAULT":
                ctx.params[each.name] = getattr(defaults, each.name)
        return super().invoke(ctx)


class _LazyGroup(_Group):
    """A group whose commands are loaded when they are called. `adders` maps each name to the `module:function` that
    adds it to a group, which is called with the group and `given`."""

    adders: ClassVar[Mapping[str, str]]
    given: ClassVar[tuple[Any, ...]]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, as they were given."""
        return list(self.adders)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, loaded; None for a name that is none."""
        if cmd_name in self.adders and cmd_name not in self.commands:
            module, _, function = self.adders[cmd_name].partition(":")
            app = group("")
            app.callback()(lambda: None)
            getattr(import_module(module), function)(app, *self.given)
            self.commands.update(get_group(app).commands)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` begin with. A name that is none is compared with all, for a suggestion."""
        if args and args[0] not in self.adders:
            for name in self.adders:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def lazy_group(help_text: str, adders: Mapping[str, str], *given: Any, add_completion: bool = False) -> typer.Typer:
    """Return a group of commands, each loaded when it is called, by the `module:function` that adds it to a group. The
    functions are called with `given`, too. The outermost group may offer completion by a shell."""
    kind = type("LazyGroup", (_LazyGroup,), {"adders": adders, "given": given})
    return group(help_text, kind, add_completion=add_completion)


def group(help_text: str, kind: type[TyperGroup] = _Group, *, add_completion: bool = False) -> typer.Typer:
    """Return a group of commands; without one named, its help is shown."""
    return typer.Typer(
        cls=kind,
        help=help_text,
        no_args_is_help=True,
        add_completion=add_completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def add_command(app: typer.Typer, name: str, work: Work, used: Collection[str] = RESULT) -> None:
    """Make `work` the command `name` of `app`, which uses these fields of `Common`."""
    common_parameters = _common_parameters(used)
    own = list(inspect.signature(work).parameters.values())[1:]
    groups: dict[str, Any] = {each.name: each.annotation for each in own if is_dataclass(each.annotation)}

    @functools.wraps(work)
    def command(**given: Any) -> None:
        common = Common(**{parameter.name: given.pop(parameter.name) for parameter in common_parameters})
        grouped = {
            name: group(**{each.name: given.pop(each.name) for each in fields(group)}) for name, group in groups.items()
        }
        try:
            with Output.opened(common) as output:
                code = _ended(work(output, **given, **grouped))
        except CommandFailed as failed:
            typer.echo(f"metergate: {failed}", err=True)
            code = failed.code
        if code:
            raise typer.Exit(code)

    parameters = [*(each for one in own for each in _options_of(one)), *common_parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=_Command)(command)


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the options that a parameter stands for: those of a dataclass have its fields' names."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=keyword)]
    hints = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            keyword,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(parameter.annotation)
    ]


def _ended(code: Coroutine[Any, Any, int | None] | int) -> int | None:
    if isinstance(code, int):
        return code
    import asyncio

    return asyncio.run(code)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what blocks, a call or a question at the terminal: asyncio's own handler waits for the event loop,
    which does not run meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
_YES: Final = ("y", "yes")


def confirm(lines: Sequence[str], *, yes: bool = False) -> None:
    """Say what is about to be done, and ask; with `yes`, or nothing to say, neither. Raises `CommandFailed` where the
    answer is no, and where there is no terminal to ask at."""
    if yes or not lines:
        return
    shown = [printable(line) for line in lines]
    if not sys.stdin.isatty():
        raise CommandFailed(" ".join([*shown, "There is no terminal to ask at: --yes does it without asking."]), USAGE)
    sys.stderr.write("".join(f"{line}\n" for line in shown))
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    try:
        with interruptible():
            given = sys.stdin.readline()
    except KeyboardInterrupt:
        given = ""
    if given.strip().lower() not in _YES:
        raise CommandFailed("Nothing was done.", REFUSED)


def ask_secret(
    what: str, environ: Mapping[str, str], variable: str, *, from_stdin: bool = False, twice: bool = False
) -> str:
    """Return a secret: a line of stdin, else that of a variable, else what is typed without echo; it may be empty.

    Raises `CommandFailed` where there is nobody to ask, and for two that are not the same.
    """
    if from_stdin:
        line = sys.stdin.readline()
        if not line.strip():
            raise CommandFailed(f"There is no line with the {what} on stdin.", USAGE)
        return line.rstrip("\r\n")
    if variable in environ:
        return environ[variable]
    if not sys.stdin.isatty():
        way = f"set {variable}, or pipe it in and give the option for stdin that --help names"
        raise CommandFailed(f"There is no terminal to ask for the {what} at: {way}.", USAGE)
    import getpass

    try:
        with interruptible():
            given = getpass.getpass(f"{what.capitalize()}: ")
            again = getpass.getpass(f"{what.capitalize()} again: ") if twice and given else given
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandFailed("Nothing was done.", REFUSED) from error
    if again != given:
        raise CommandFailed("These are not the same: nothing was done.", USAGE)
    return given

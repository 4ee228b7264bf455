"""A function becomes a command of `metergate`.

`add_command` takes a function, mostly an async one, whose first parameter is the `Output`; its others are the command's
own options and arguments, as typer wants them, or dataclasses of them that several commands have; its docstring is the
help. The common options are added, the event loop is
run, and a `CommandFailed` becomes a sentence and an exit code.

A group names its commands by the functions that add them, as `module:function`, and loads a module when one of its
commands is called or all are shown (https://click.palletsprojects.com/en/stable/complex/#lazily-loading-subcommands).
So that help is quick, modules of commands import what only their help needs. What a command works with is imported
inside its function: aiohttp, the drivers of both stores and the gateway take ten times as long as everything else.
"""

import functools
import inspect
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from billing.cli.options import RESULT, Common
from billing.cli.output import CommandFailed, Output, Shown

if TYPE_CHECKING:
    from billing.client.calls import BillingCalls

# A function of an `Output` and a command's own options, mostly async; answers the exit code, None for 0.
Work = Callable[..., Coroutine[Any, Any, int | None] | int]
# An async function of a `BillingCalls` or a `Session`, and a command's own options.
Call = Callable[..., Awaitable[Shown]]
# How to reach the billing API by what the output's options say; raises `CommandFailed` where that can't be.
Connect = Callable[[Output], AbstractAsyncContextManager["BillingCalls"]]

_HINTS: Final = get_type_hints(Common, include_extras=True)
_FIELDS: Final = frozenset(each.name for each in fields(Common))
_TEXTS: Final = (str, list[str])


def _common_parameters() -> list[inspect.Parameter]:
    """Return the common options. Each command takes all of them, and its help names those that it uses in one line."""
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=_HINTS[each.name])
        for each in fields(Common)
    ]


def _common_options(used: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the flag of each common option in use, as it is given, and what it means."""
    for each in fields(Common):
        if each.name in used:
            _, option = get_args(_HINTS[each.name])
            # Within Annotated, typer has the first of an option's flags where its default would be.
            flag = option.default if isinstance(option.default, str) else f"--{each.name.replace('_', '-')}"
            yield f"{flag} {option.metavar}" if option.metavar else flag, option.help


def _quickened(parameters: list[Any]) -> list[Any]:
    """Return a command's parameters, which read themselves what is not given, texts, and lists of them. For all others
    typer loads pydantic, which takes a fifth of a short command's time."""
    for each in parameters:
        if "process_value" not in vars(each):
            each.process_value = functools.partial(_read, each, each.process_value)
    return parameters


def _read(parameter: Any, read: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """Return what `read`, which is typer's, would return."""
    several, of = parameter.multiple or parameter.nargs == -1, parameter.type_descriptor
    is_text = of.annotation in _TEXTS and of.parameter_info.parser is None
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
    """A command. Its help names the common options that it uses; `metergate --help` says what they mean."""

    used: ClassVar[Collection[str]] = RESULT

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the line of the common options."""
        flags = ", ".join(flag for flag, _ in _common_options(self.used))
        formatter.write_paragraph()
        formatter.write_text(f"As for every command: {flags}. `metergate --help` says what they mean.")

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


def _after_command(args: list[str]) -> list[str]:
    """Return the arguments of the outermost group, with options of every command that stand before a command behind
    it, where commands take them."""
    takes = {flag.partition(" ")[0]: " " in flag for flag, _ in _common_options(_FIELDS)}
    at = 0
    while at < len(args) and (name := args[at].partition("=")[0]) in takes:
        at += 2 if takes[name] and "=" not in args[at] else 1
    own, rest = args[:at], args[at:]
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *own, *rest[end:]] if rest else args


class _LazyGroup(_Group):
    """A group whose commands are loaded when they are called. `adders` maps each name to the `module:function` that
    adds it to a group, which is called with the group and `given`."""

    adders: ClassVar[Mapping[str, str]]
    given: ClassVar[tuple[Any, ...]]
    # Headings, each with the names of the commands below it; none: one list.
    sections: ClassVar[Mapping[str, Collection[str]]] = MappingProxyType({})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what the outermost group was called with."""
        return super().parse_args(ctx, _after_command(args) if self.sections else args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands below their headings, and after them the options of every command."""
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        widest = max(map(len, self.adders))
        for heading, names in self.sections.items():
            with formatter.section(heading):
                commands = ((name, self.get_command(ctx, name)) for name in names)
                room = formatter.width - formatter.current_indent - widest - 4
                formatter.write_dl([(name.ljust(widest), each.get_short_help_str(room)) for name, each in commands])
        with formatter.section("Options of every command"):
            formatter.write_dl(list(_common_options(_FIELDS)))

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


def lazy_group(help_text: str, adders: Mapping[str, str], *given: Any) -> typer.Typer:
    """Return a group of commands, each loaded when it is called, by the `module:function` that adds it to a group. The
    functions are called with `given`, too."""
    return group(help_text, type("LazyGroup", (_LazyGroup,), {"adders": adders, "given": given}))


def outermost_group(help_text: str, sections: Mapping[str, Mapping[str, str]]) -> typer.Typer:
    """Return the group of all commands, as `lazy_group` does, below headings. It offers completion by a shell."""
    adders = {name: adder for section in sections.values() for name, adder in section.items()}
    kind = type("OutermostGroup", (_LazyGroup,), {"adders": adders, "given": (), "sections": sections})
    return group(help_text, kind, add_completion=True)


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
    common_parameters = _common_parameters()
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
                code = _end(output, lambda: work(output, **given, **grouped))
        except CommandFailed as failed:  # of the output's file
            typer.echo(f"metergate: {failed}", err=True)
            code = failed.code
        if code:
            raise typer.Exit(code)

    parameters = [*(each for one in own for each in _options_of(one)), *common_parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, cls=type("Command", (_Command,), {"used": used}))(command)


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


def _end(output: Output, work: Callable[[], Coroutine[Any, Any, int | None] | int]) -> int | None:
    """Run a command's work to its end, and say why it failed."""
    try:
        code = work()
        if isinstance(code, int):
            return code
        import asyncio

        return asyncio.run(code)
    except CommandFailed as failed:
        output.error(f"metergate: {failed}")
        return failed.code


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what blocks, a call or a question at the terminal: asyncio's own handler waits for the event loop,
    which does not run meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""Worker processes on one listening socket: started, started again when they die, replaced, stopped in order.

The supervisor binds the address once and hands the socket to every worker, so that a worker's death or restart never
closes the port. Each worker is `command --fd N --ready-fd M` with

    N    the listening socket
    M    the write end of a pipe: one byte says that the worker serves
    `--hand-fds`, where pages have a process of their own: `gateway.process.pages` says what for
    METERGATE_SUPERVISOR_PID in its environment, for `die_with_parent`
    METERGATE_GATEWAY_ID in its environment, by which other gateways know it: a new one for each process

and a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone.

SIGUSR2 puts a new worker in the place of each, one after the other: what is installed, and configured, by then. The old
one is told (SIGUSR2) only once the new one serves on the same socket; it keeps its connections for as long as the
gateway's settings say. Where a new one does not come to serve, those before it stay replaced, and the others serve on.

Invariant kept here: no worker outlives its supervisor. Stopped by a signal, the supervisor waits for its workers;
killed, it takes them along, provided that each worker calls `die_with_parent` first.

That a worker's process has ended is announced to other gateways by its lease in Postgres, so that none needs to wait.
Without it, or where Postgres is away for longer, the lease lapses by itself.
"""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR2, Signals, getsignal
from typing import Any

from ulid import ULID

from gateway.embedded.launch import signal_when_parent_ends
from gateway.process.pages import Channel
from gateway.server.listening import address_of, bind

SUPERVISOR_PID_VARIABLE = "METERGATE_SUPERVISOR_PID"
GATEWAY_ID_VARIABLE = "METERGATE_GATEWAY_ID"
EMBEDDED_VARIABLE = "METERGATE_EMBEDDED"  # "1" says to a worker that Redis is a server of the data folder
RESTART_DELAY_S = 0.1  # before the second restart in a row, doubled for each one more; the first is at once
RESTART_DELAY_LIMIT_S = 10.0
STABLE_AFTER_S = 10.0  # a worker that ran as long begins anew with its delays
FAILED_STARTS_LIMIT = 3  # deaths before any worker was ever ready: then something is wrong that no restart mends
SAME_STOP_S = 1.0  # `timeout`, make and systemd may signal a process and then its whole group: that asks once
KILL_MARGIN_S = 2.0  # added to the workers' own grace before they are killed
HAND_OVER_MORE_S = 5.0  # and to that of one in whose place another serves: its last connections get a moment
READY_WITHIN_S = 120.0  # a new worker that does not serve by then is given up
PAGES_MORE_S = 5.0  # in which the process of pages ends after the workers: it has no metered request
NOT_STARTED = "could not be started"  # for the same reason again and again, as without room for a process: told once
PARENT_POLL_S = 0.5  # how often a worker looks for its parent where the kernel does not tell

_log = logging.getLogger(__name__)


def stop_signals() -> tuple[Signals, ...]:
    """Return the signals that ask a process to stop in order. SIGHUP, which a terminal sends as it closes, is one of
    them unless whoever started the process has it ignored, as nohup(1) does."""
    return (SIGTERM, SIGINT) if getsignal(SIGHUP) is SIG_IGN else (SIGTERM, SIGINT, SIGHUP)


def die_with_parent(parent_pid: int) -> None:
    """Make this process end (SIGKILL) when the process `parent_pid` that started it ends, however that ends.

    For a worker, as its first act: `die_with_parent(int(os.environ[SUPERVISOR_PID_VARIABLE]))`. On Linux the kernel
    sees to it (prctl(2), PR_SET_PDEATHSIG), elsewhere a thread looks every PARENT_POLL_S. Exits at once if the parent
    is gone already.
    """
    if not signal_when_parent_ends(parent_pid, SIGKILL):
        threading.Thread(target=_watch_parent, args=(parent_pid,), name="watch parent", daemon=True).start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What is called: `on_ready` once, with the address, when the first worker is ready; `on_end` with the gateway id
    of each worker whose process has ended, waited for before `supervise` returns, however long it takes; `on_stop`,
    once or more, before the listening socket is closed; `on_replacing` when SIGUSR2 begins to be obeyed, `on_replaced`
    when it was, with what kept new workers from serving, or nothing."""

    on_ready: Callable[[str], None] | None = None
    on_end: Callable[[str], Awaitable[None]] | None = None
    on_stop: Callable[[], None] = lambda: None
    on_replacing: Callable[[], None] = lambda: None
    on_replaced: Callable[[str], None] = lambda _: None


async def supervise(
    command: Sequence[str],
    *,
    workers: int,
    listen: str,
    env: Mapping[str, str],
    shutdown_grace_s: float,
    pass_fds: Sequence[int] = (),
    pages: bool = False,
    hooks: Hooks | None = None,
) -> int:
    """Run `workers` processes of `command` on `listen` until one of `stop_signals`; the exit code for the command.

    `pass_fds` stay open in the workers. The first signal is passed on as SIGTERM, and a worker that runs on
    `shutdown_grace_s` + KILL_MARGIN_S later is killed; a second signal kills at once, but within SAME_STOP_S of the
    first it is taken for the same. With `pages` there is another process of `command` while somebody looks at pages
    (`gateway.process.pages`): told to end when no worker is left to give it anything, so that it answers all that it
    was given, and killed PAGES_MORE_S later. 0 after a signal, 1 when FAILED_STARTS_LIMIT workers died before any was
    ready. Raises what `bind` raises. Main thread only, for the signals and for `die_with_parent`. Cancelled, it kills
    the workers.
    """
    if workers < 1:
        raise ValueError("at least one worker is needed")
    with bind(listen) as listener:
        supervisor = _Supervisor(
            tuple(command),
            {**env, "LISTEN_ADDR": address_of(listener)},
            listener,
            shutdown_grace_s,
            tuple(pass_fds),
            hooks or Hooks(),
            _channel() if pages else None,
        )
        return await supervisor.run(workers)


@dataclass(slots=True, eq=False)
class _Place:
    """Where one process runs at a time. `ready`: one of it has come to serve; `over`: none is started here any more.
    One that is `new` is not started again before it has served; one that is `left` has another one in its place."""

    name: str
    new: bool = False
    left: bool = False
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Supervisor:
    command: tuple[str, ...]
    env: dict[str, str]
    listener: socket.socket
    shutdown_grace_s: float
    pass_fds: tuple[int, ...]
    hooks: Hooks
    channel: Channel | None
    spawn: Callable[[Coroutine[Any, Any, None]], object] | None = None
    running: set[asyncio.subprocess.Process] = field(default_factory=set)
    pages: set[asyncio.subprocess.Process] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurrying: asyncio.Event = field(default_factory=asyncio.Event)
    replacing: asyncio.Event = field(default_factory=asyncio.Event)
    places: list[_Place] = field(default_factory=list)
    working: set[asyncio.Task[None]] = field(default_factory=set)
    asked_s: float = 0.0
    failed_starts: int = 0
    was_ready: bool = False
    exit_code: int = 0

    async def run(self, workers: int) -> int:
        loop, signals = asyncio.get_running_loop(), stop_signals()
        for number in signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            async with asyncio.TaskGroup() as group:
                self.spawn = group.create_task
                loop.add_signal_handler(SIGUSR2, self.replacing.set)
                listening = [group.create_task(each) for each in (self._stop_on_signal(), self._replace_on_signal())]
                self.places = [_Place(f"worker {number}") for number in range(1, workers + 1)]
                for place in self.places:
                    self._work(group, place)
                if self.channel is None:
                    await self._worked()
                else:
                    place = _Place("the process of pages")
                    pages = group.create_task(self._keep(place, self._run_pages))
                    await self._worked()
                    await self._end_pages(pages, SIGKILL if self.channel.starting else SIGTERM)
                for each in listening:
                    each.cancel()
        finally:
            self.hooks.on_stop()
            if self.channel is not None:
                self.channel.close()
            # SIGUSR2 keeps its handler until the loop is closed: its default would kill what still announces ends.
            for number in signals:
                loop.remove_signal_handler(number)
        return self.exit_code

    def _work(self, group: asyncio.TaskGroup, place: _Place) -> None:
        task = group.create_task(self._keep(place, self._run_worker))
        self.working.add(task)
        task.add_done_callback(self.working.discard)

    async def _worked(self) -> None:
        """Wait until there is no worker."""
        while self.working:
            await asyncio.wait(tuple(self.working))

    def _on_signal(self, number: Signals) -> None:
        now_s = time.monotonic()
        if not self.stopping.is_set():
            self.asked_s = now_s
        elif now_s - self.asked_s < SAME_STOP_S:
            return
        else:
            self.hurrying.set()
        _log.info("%s: stopping%s", number.name, " at once" if self.hurrying.is_set() else "")
        self.stopping.set()

    async def _stop_on_signal(self) -> None:
        await self.stopping.wait()
        self.hooks.on_stop()
        _signal(self.running, SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.hurrying.wait(), self.shutdown_grace_s + KILL_MARGIN_S)
        _log.warning("killing %d processes that have not ended", len(self.running | self.pages))
        _signal(self.running | self.pages, SIGKILL)

    async def _replace_on_signal(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self.replacing.wait()
                self.replacing.clear()
                if self.stopping.is_set():
                    return
                self.hooks.on_replacing()
                _log.info("SIGUSR2: putting new workers in the place of the old ones")
                why_not = await self._replace(group)
                if why_not:
                    _log.error("%s: workers that were not replaced serve on", why_not)
                else:
                    _log.info("new workers serve; the old ones end with their connections")
                if self.channel is not None and not why_not and not self.channel.starting:
                    _signal(self.pages, SIGTERM)  # workers make pages until the next look starts another one
                self.hooks.on_replaced(why_not)

    async def _replace(self, group: asyncio.TaskGroup) -> str:
        """Put a new worker in the place of each; what keeps one from serving, in words."""
        for at, old in enumerate(self.places):
            new = _Place(old.name, new=True)
            self._work(group, new)
            await _first(new.ready, new.over, within_s=READY_WITHIN_S)
            if not new.ready.is_set():
                new.left = True
                if new.process is not None:
                    _signal((new.process,), SIGKILL)
                if self.stopping.is_set():
                    return "the gateway stops"
                replaced = f", after {at} of {len(self.places)} were replaced" if at else ""
                return f"{old.name}: the new one does not come to serve{replaced}"
            self.places[at] = new
            group.create_task(self._leave(old))
        return ""

    async def _leave(self, old: _Place) -> None:
        """Have a worker end with its connections; killed where it does not."""
        old.left = True
        if old.process is not None:
            _signal((old.process,), SIGUSR2)
        await _first(old.over, within_s=self.shutdown_grace_s + HAND_OVER_MORE_S + KILL_MARGIN_S)
        if not old.over.is_set() and old.process is not None:
            _log.warning("killing %s, in whose place another one serves: it has not ended", old.name)
            _signal((old.process,), SIGKILL)

    async def _end_pages(self, task: asyncio.Task[None], number: Signals) -> None:
        """End the process of pages, which `task` keeps, after the workers: what they gave away last is answered."""
        _signal(self.pages, number)
        if (await asyncio.wait([task], timeout=PAGES_MORE_S))[1]:
            _log.warning("killing the process of pages, which has not ended")
            _signal(self.pages, SIGKILL)
            await asyncio.wait([task])

    async def _keep(self, place: _Place, run: Callable[[_Place], Awaitable[str]]) -> None:
        """Run one process again and again, until a signal stops it or another place has its work; `run` says how it
        ended, nothing where it was to end."""
        try:
            await self._keep_up(place, run)
        finally:
            place.over.set()

    async def _keep_up(self, place: _Place, run: Callable[[_Place], Awaitable[str]]) -> None:
        name, delay_s, last = place.name, 0.0, ""
        while not self.stopping.is_set() and not place.left:
            started = time.monotonic()
            how = await run(place)
            if self.stopping.is_set() or place.left or not how:
                continue
            if place.new and not place.ready.is_set():
                _log.error("%s %s before it was ready", name, how)
                return
            if not self.was_ready:
                self.failed_starts += 1
                if self.failed_starts >= FAILED_STARTS_LIMIT:
                    _log.error("%s %s before it was ready; giving up", name, how)
                    self.exit_code = 1
                    self.stopping.set()
                    return
            if time.monotonic() - started >= STABLE_AFTER_S:
                delay_s = 0.0
            level = logging.INFO if how == last and how.startswith(NOT_STARTED) else logging.WARNING
            _log.log(level, "%s %s; starting it again in %.1f s", name, how, delay_s)
            last = how
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), delay_s)
            delay_s = min(max(delay_s * 2, RESTART_DELAY_S), RESTART_DELAY_LIMIT_S)

    async def _run_worker(self, place: _Place) -> str:
        fds: dict[str, tuple[int, ...]] = {"--fd": (self.listener.fileno(),)}
        fds |= {} if self.channel is None else {"--hand-fds": self.channel.hand_fds}
        return await self._run(place, fds, self.running)

    async def _run_pages(self, place: _Place) -> str:
        """Run the process of pages when somebody looks."""
        assert self.channel is not None  # noqa: S101  (checked by run)
        fds = {"--adopt-fds": self.channel.adopt_fds}
        await self.channel.looked_at(self.stopping)
        how = "" if self.stopping.is_set() else await self._run(place, fds, self.pages)
        return "" if self.channel.ended() else how

    async def _run(
        self, place: _Place, fds: Mapping[str, tuple[int, ...]], among: set[asyncio.subprocess.Process]
    ) -> str:
        """Run one process with these options to its end, `among` these meanwhile; how it ended, in words."""
        loop = asyncio.get_running_loop()
        try:
            ready_fd, worker_fd = os.pipe()
        except OSError as error:  # too many files are open
            return f"{NOT_STARTED} ({error})"
        process, gateway_id = None, str(ULID())
        try:
            try:
                process = await self._spawn({**fds, "--ready-fd": (worker_fd,)}, gateway_id)
            except OSError as error:
                return f"{NOT_STARTED} ({error})"
            finally:
                os.close(worker_fd)
            among.add(process)
            place.process = process
            if self.stopping.is_set() or place.left:  # the signal came while this one started
                os.kill(process.pid, SIGTERM)
            loop.add_reader(ready_fd, self._on_ready_byte, loop, ready_fd, place)
            code = await process.wait()
            if self.hooks.on_end is not None and self.spawn is not None:
                self.spawn(self._announce_end(gateway_id))
            return f"ended with code {code}"
        finally:
            loop.remove_reader(ready_fd)
            os.close(ready_fd)
            place.process = None
            if process is not None:
                among.discard(process)
                if process.returncode is None:  # cancelled
                    process.kill()
                    await process.wait()

    async def _announce_end(self, gateway_id: str) -> None:
        assert self.hooks.on_end is not None  # noqa: S101  (checked where this is spawned)
        try:
            await self.hooks.on_end(gateway_id)
        except Exception:  # any exception: workers must be kept running
            _log.exception("the end of worker %s could not be announced", gateway_id)

    async def _spawn(self, fds: Mapping[str, tuple[int, ...]], gateway_id: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.command,
            *(part for option, values in fds.items() for part in (option, *map(str, values))),
            stdin=asyncio.subprocess.DEVNULL,
            env={**self.env, SUPERVISOR_PID_VARIABLE: str(os.getpid()), GATEWAY_ID_VARIABLE: gateway_id},
            pass_fds=(*(fd for values in fds.values() for fd in values), *self.pass_fds),
            start_new_session=True,
        )

    def _on_ready_byte(self, loop: asyncio.AbstractEventLoop, ready_fd: int, place: _Place) -> None:
        loop.remove_reader(ready_fd)
        if not os.read(ready_fd, 1):
            return
        place.ready.set()
        if not self.was_ready:
            self.was_ready = True
            if self.hooks.on_ready is not None:
                self.hooks.on_ready(address_of(self.listener))


def _channel() -> Channel | None:
    try:
        return Channel()
    except OSError as error:
        _log.warning("workers make pages: the system has nothing to share with a process of their own (%s)", error)
        return None


async def _first(*events: asyncio.Event, within_s: float) -> None:
    """Wait for one of them, at most so long."""
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


def _signal(processes: Iterable[asyncio.subprocess.Process], number: Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)  # not send_signal, which may take the exit code from asyncio's watcher


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), SIGKILL)

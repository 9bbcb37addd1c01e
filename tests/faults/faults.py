"""What can go wrong, by name. Each fault answers whom it hit, or None if there was nobody to hit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from random import Random

from tests.faults.fleet import Fleet, Process
from tests.faults.postgres import OwnPostgres
from tests.proxy import Proxy

DOWN_SECONDS = (0.0, 1.0)  # how long a killed server stays down
FROZEN_SECONDS = (0.2, 7.0)  # past some of it another process takes a frozen sequencer's place
NETWORK_SECONDS = (0.2, 4.0)  # how long a network is slow, or loses everything
DELAY_SECONDS = (0.005, 0.2)  # of each piece on a slow network
START_TRIES_MAX = 20  # a server that starts while another fault keeps the database away ends; it is started again


class Scene:
    """What the faults act on."""

    def __init__(
        self,
        fleet: Fleet,
        postgres: OwnPostgres | None,
        random: Random,
        later: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self.fleet = fleet
        self.postgres = postgres
        self.random = random
        self.later = later  # mends in the background, before the run ends

    def anybody(self) -> Process | None:
        """A process that works and has no trouble yet."""
        well = [process for process in self.fleet.processes if process.is_up and not process.is_troubled]
        return self.random.choice(well) if well else None

    def is_spare(self, process: Process) -> bool:
        """Whether another one works on without it."""
        return any(other.is_up and not other.is_troubled for other in self.fleet.processes if other is not process)

    async def sequencer(self) -> tuple[Process, int] | None:
        """The process that numbers commits, and its backend's pid, unless it has trouble."""
        found = await self.fleet.sequencer()
        return found if found is not None and found[0].is_up and not found[0].is_troubled else None


Fault = Callable[[Scene], Awaitable[str | None]]


async def kill_sequencer(scene: Scene) -> str | None:
    """kill -9 the process that numbers commits."""
    found = await scene.sequencer()
    return await _kill(scene, found and found[0])


async def kill_server(scene: Scene) -> str | None:
    """kill -9 any process."""
    return await _kill(scene, scene.anybody())


async def restart_server(scene: Scene) -> str | None:
    """SIGTERM, and start again: what a rolling restart does to each."""
    process = scene.anybody()
    if process is None or not scene.is_spare(process):
        return None

    async def restart() -> None:
        await process.stop()
        await _start(process)

    _trouble(scene, process, restart())
    return process.name


async def end_sequencer_backend(scene: Scene) -> str | None:
    """pg_terminate_backend the connection that holds the sequencer's lock."""
    found = await scene.fleet.sequencer()
    if found is None:
        return None
    await scene.fleet.ask("select pg_terminate_backend($1)", found[1])
    return found[0].name


async def end_backend(scene: Scene) -> str | None:
    """pg_terminate_backend any connection of any process."""
    process = scene.random.choice(scene.fleet.processes)
    backends = await scene.fleet.backends(process.role)
    if not backends:
        return None
    await scene.fleet.ask("select pg_terminate_backend($1)", scene.random.choice(backends))
    return process.name


async def freeze_sequencer(scene: Scene) -> str | None:
    """SIGSTOP the process that numbers commits: it keeps its lock, and its sockets."""
    found = await scene.sequencer()
    return _freeze(scene, found and found[0])


async def freeze_server(scene: Scene) -> str | None:
    """SIGSTOP any process."""
    return _freeze(scene, scene.anybody())


async def cut_clients(scene: Scene) -> str | None:
    """Reset every connection between a server and its clients."""
    process = scene.random.choice(scene.fleet.processes)
    process.front.cut()
    return process.name


async def cut_database(scene: Scene) -> str | None:
    """Reset every connection between a server and Postgres."""
    process = scene.random.choice(scene.fleet.processes)
    process.back.cut()
    return process.name


async def slow_clients(scene: Scene) -> str | None:
    """Everything between a server and its clients takes long."""
    return _disturb(
        scene, lambda process: process.front, lambda proxy: proxy.slow(scene.random.uniform(*DELAY_SECONDS))
    )


async def slow_database(scene: Scene) -> str | None:
    """Everything between a server and Postgres takes long."""
    return _disturb(scene, lambda process: process.back, lambda proxy: proxy.slow(scene.random.uniform(*DELAY_SECONDS)))


async def blackhole_clients(scene: Scene) -> str | None:
    """Nothing passes between a server and its clients, and nobody is told."""
    return _disturb(scene, lambda process: process.front, Proxy.blackhole)


async def blackhole_database(scene: Scene) -> str | None:
    """Nothing passes between a server and Postgres, and nobody is told."""
    return _disturb(scene, lambda process: process.back, Proxy.blackhole)


async def kill_postmaster(scene: Scene) -> str | None:
    """kill -9 the postmaster."""
    return await _end_postgres(scene, signal.SIGKILL)


async def restart_postgres(scene: Scene) -> str | None:
    """Stop Postgres as an operator does (fast), and start it again."""
    return await _end_postgres(scene, signal.SIGINT)


async def kill_backend(scene: Scene) -> str | None:
    """kill -9 a backend of a server: the postmaster ends all of them, and recovers."""
    process = scene.random.choice(scene.fleet.processes)
    backends = await scene.fleet.backends(process.role)
    if scene.postgres is None or not backends:
        return None
    await scene.postgres.kill_backend(scene.random.choice(backends))
    return process.name


FAULTS: dict[str, Fault] = {
    "kill sequencer": kill_sequencer,
    "kill server": kill_server,
    "restart server": restart_server,
    "end sequencer's backend": end_sequencer_backend,
    "end backend": end_backend,
    "freeze sequencer": freeze_sequencer,
    "freeze server": freeze_server,
    "cut clients": cut_clients,
    "cut database": cut_database,
    "slow clients": slow_clients,
    "slow database": slow_database,
    "blackhole clients": blackhole_clients,
    "blackhole database": blackhole_database,
    "kill postmaster": kill_postmaster,
    "restart postgres": restart_postgres,
    "kill backend": kill_backend,
}

KILLS = ("kill sequencer", "kill sequencer", "kill server", "restart server", "end sequencer's backend", "end backend")
FREEZES = ("freeze sequencer", "freeze server")
NETWORK = (
    "cut clients", "cut database", "slow clients", "slow database", "blackhole clients", "blackhole database",
)  # fmt: skip
POSTGRES = ("kill postmaster", "restart postgres", "kill backend")  # only on a Postgres of the suite's own


async def _kill(scene: Scene, process: Process | None) -> str | None:
    if process is None or not scene.is_spare(process):
        return None
    await process.kill()

    async def revive() -> None:
        await asyncio.sleep(scene.random.uniform(*DOWN_SECONDS))
        await _start(process)

    _trouble(scene, process, revive())
    return process.name


def _freeze(scene: Scene, process: Process | None) -> str | None:
    if process is None:
        return None
    process.freeze()

    async def thaw() -> None:
        await asyncio.sleep(scene.random.uniform(*FROZEN_SECONDS))
        process.thaw()

    _trouble(scene, process, thaw())
    return process.name


def _disturb(scene: Scene, side: Callable[[Process], Proxy], disturb: Callable[[Proxy], None]) -> str | None:
    process = scene.anybody()
    if process is None:
        return None
    disturb(side(process))
    is_lost = scene.random.random() < 0.5

    async def heal() -> None:
        await asyncio.sleep(scene.random.uniform(*NETWORK_SECONDS))
        side(process).heal()
        if is_lost:
            side(process).cut()

    _trouble(scene, process, heal())
    return process.name


async def _end_postgres(scene: Scene, number: signal.Signals) -> str | None:
    if scene.postgres is None:
        return None
    await scene.postgres.end(number)
    return "postgres"


def _trouble(scene: Scene, process: Process, mend: Coroutine[None, None, None]) -> None:
    """No other fault that needs mending hits this process before it is mended."""
    process.is_troubled = True

    async def mend_and_tell() -> None:
        try:
            await mend
        finally:
            process.is_troubled = False

    scene.later(mend_and_tell())


async def _start(process: Process) -> None:
    for tries in range(1, START_TRIES_MAX + 1):
        try:
            await process.start()
            return
        except RuntimeError:
            if tries == START_TRIES_MAX:
                raise

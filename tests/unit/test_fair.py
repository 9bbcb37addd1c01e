"""Places that clients take turns for: who wants very many holds up only itself."""

from __future__ import annotations

import asyncio

from tidelog.fair import Claim, Fair


class Queue:
    """One place, and who had it, in order."""

    def __init__(self, places: int = 1) -> None:
        self.fair = Fair(places)
        self.served: list[str] = []
        self.at_once = self.at_once_max = 0
        self.tasks: list[asyncio.Task[None]] = []

    def want(self, name: str, *clients: str) -> asyncio.Task[None]:
        claim = Claim(clients[0])
        for client in clients[1:]:
            claim.join(client)
        return self.claim(name, claim)

    def claim(self, name: str, claim: Claim) -> asyncio.Task[None]:
        async def work() -> None:
            async with self.fair.place(claim):
                self.at_once += 1
                self.at_once_max = max(self.at_once, self.at_once_max)
                self.served.append(name)
                try:
                    await asyncio.sleep(0)
                finally:
                    self.at_once -= 1

        self.tasks.append(asyncio.create_task(work()))
        return self.tasks[-1]

    async def done(self) -> list[str]:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.served


async def test_one_that_comes_behind_very_many_of_another_is_served_next() -> None:
    """And of one client who comes first is first."""
    queue = Queue()
    for n in range(100):
        queue.want(f"greedy{n}", "greedy")
    await asyncio.sleep(0)
    queue.want("polite", "polite")
    served = await queue.done()
    assert served.index("polite") <= 3
    assert [name for name in served if name != "polite"] == [f"greedy{n}" for n in range(100)]


async def test_clients_take_turns() -> None:
    """However many each has; the first one found a place free."""
    queue = Queue()
    for client, count in (("a", 9), ("b", 3), ("c", 6)):
        for _ in range(count):
            queue.want(client, client)
    assert "".join(await queue.done()) == "aabcabcabcacacacaa"


async def test_what_another_joins_in_is_served_in_the_others_turn() -> None:
    """So that one who wants what a greedy one waits for isn't held up by the rest; it is served once."""
    queue = Queue()
    for n in range(50):
        queue.want(f"greedy{n}", "greedy")
    shared = Claim("greedy")
    queue.claim("shared", shared)
    await asyncio.sleep(0)
    shared.join("polite")
    shared.join("polite")
    served = await queue.done()
    assert served.index("shared") <= 3 and served.count("shared") == 1 and len(served) == 51


async def test_who_goes_while_it_waits_takes_no_place() -> None:
    """Nor one that goes in the moment in which it is its turn."""
    queue = Queue(2)
    wanting = [queue.want(str(n), str(n % 3)) for n in range(30)]
    for task in wanting[5:20]:
        task.cancel()
    for _ in range(4):
        await asyncio.sleep(0)
        next(task for task in wanting if not task.done()).cancel()
    await queue.done()
    assert queue.at_once_max == 2
    again = Queue(2)
    again.fair = queue.fair
    again.want("a", "a")
    again.want("b", "b")
    assert await again.done() == ["a", "b"] and again.at_once_max == 2
    assert not queue.fair._lines


async def test_a_place_is_left_for_whoever_comes_next() -> None:
    """One client has no more than its part, though others are free; what another joins in begins at once."""
    fair = Fair(3, of_one_max=2)
    entered: list[str] = []
    end = asyncio.Event()

    async def take(name: str, claim: Claim) -> None:
        async with fair.place(claim):
            entered.append(name)
            await end.wait()

    shared = Claim("greedy")
    claims = {"first": Claim("greedy"), "second": Claim("greedy"), "third": shared, "fourth": Claim("greedy")}
    tasks = [asyncio.create_task(take(name, claim)) for name, claim in claims.items()]
    await asyncio.sleep(0)
    assert entered == ["first", "second"]
    shared.join("polite")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == ["first", "second", "third"]
    end.set()
    await asyncio.gather(*tasks)
    assert entered[3:] == ["fourth"] and not fair._lines and not fair._busy and fair._free == 3

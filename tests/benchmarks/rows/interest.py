"""What subscribers of other groups cost those who write and those who are written to: nothing, is the aim."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.benchmarks.crowd import crowd
from tests.benchmarks.ground import Ground
from tests.benchmarks.row import Figures, Measure, Row, Side, at_least
from tests.benchmarks.rows.fan_out import HUNDRED, delivering
from tests.benchmarks.rows.write import GROUPS, numbering
from tests.benchmarks.serving import serving

OTHERS_IN_A_GROUP = 10


@asynccontextmanager
async def among_others(ground: Ground, *, others: int) -> AsyncIterator[Measure]:
    """The numbered side of the write rows and the commit side of fan-out to 100 sockets, on one server."""
    sockets = ground.scale.size(others, others // 100)
    async with (
        serving(ground) as server,
        crowd(server.port, [f"other{n // OTHERS_IN_A_GROUP}" for n in range(sockets)]) as others_there,
        numbering(ground, server.database_url, GROUPS) as measure_writing,
        delivering(ground, server, HUNDRED, None) as measure_delivery,
    ):

        async def measure() -> Figures:
            figures = {**await measure_writing(), **await measure_delivery()}
            await others_there.check()
            return figures

        yield measure


def _rows(others: int) -> list[Row]:
    ours = Side(f"{others:,} others", partial(among_others, others=others))
    return [
        Row(
            f"interest-{others}-{what}",
            f"{what} with {others:,} subscribers of other groups, against none",
            ours,
            NONE_SIDE,
            figure,
            at_least(0.9),
        )
        for what, figure in (("write", "upserts_per_second"), ("delivery", "deliveries_per_second"))
    ]


NONE_SIDE = Side("no others", partial(among_others, others=0))

ROWS = (*_rows(1000), *_rows(10_000))

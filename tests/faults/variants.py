"""The kinds of history that are run: which faults there are, and under what circumstances."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.faults import FREEZES, KILLS, NETWORK, POSTGRES


@dataclass(frozen=True)
class Variant:
    """`faults` are names of faults.FAULTS; one that is there twice comes twice as often."""

    faults: tuple[str, ...]
    is_hindered: bool = False  # open transactions, and settings of the database's that interrupt sessions
    is_narrow: bool = False  # whoever doesn't take its frames falls behind soon
    needs_own_postgres: bool = False  # it kills it


VARIANTS = {
    "kills": Variant(KILLS),
    "network": Variant(KILLS + NETWORK),
    "freezes": Variant(KILLS + FREEZES),
    "hindered": Variant(KILLS, is_hindered=True),
    "narrow": Variant((*KILLS, "slow clients", "blackhole clients", "cut clients"), is_narrow=True),
    "postgres": Variant(KILLS + POSTGRES, is_hindered=True, needs_own_postgres=True),
}

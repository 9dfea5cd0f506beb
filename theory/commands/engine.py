"""Options of the engine that computes a grid: processes of this machine, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from theory.commands.options import OptionError, Options, option

if TYPE_CHECKING:
    from theory.studies.engine import Engine

__all__ = ["ENGINE", "EngineOptions"]

ENGINE = "where it is computed (docs/cluster.md); the numbers are the same everywhere"


@dataclass(frozen=True)
class EngineOptions(Options):
    """The engine that computes the cells of a grid.

    Example:
        >>> EngineOptions(engine="dask", scheduler="head:8786").chosen()
        Engine(name='dask', scheduler='head:8786', processes=None)
    """

    engine: Literal["local", "dask", "ray"] = option(
        "local",
        help="processes of this machine (local), or a cluster of Dask or Ray",
        affects_results=False,
    )
    scheduler: str | None = option(
        None,
        help="address of the cluster, HOST:PORT; of Ray also ray://HOST:PORT",
        metavar="ADDRESS",
        affects_results=False,
    )
    processes: int | None = option(
        None,
        help="processes of this machine",
        low=1,
        high=2**10,
        default_text="one a processor",
        affects_results=False,
    )

    def unread(self) -> dict[str, str]:
        """Options that the engine has no use for."""
        if self.engine == "local":
            return {"scheduler": "is not read by {engine} local"}
        return {"processes": f"is not read by {{engine}} {self.engine}: its cluster has its own"}

    def check(self) -> None:
        """Refuse a cluster without an address."""
        if self.engine != "local" and self.scheduler is None:
            raise OptionError(
                "scheduler", f"is missing: {{engine}} {self.engine} needs its address"
            )

    def chosen(self, processes: int | None = None) -> Engine:
        """Return the engine.

        Args:
            processes: of this machine, where the option is not given.
        """
        from theory.studies.engine import Engine

        local = self.engine == "local" and self.processes is None
        return Engine(self.engine, self.scheduler, processes if local else self.processes)

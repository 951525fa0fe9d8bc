"""A federation: one table of records, its clients, and the rows that are held out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios import partition as partitions
from fedtoll.scenarios import split as splits
from fedtoll.scenarios.data import Source, load_table, source_of
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Partition, Split

SEEDS_CACHED = 2
"""The number of seeds whose records a federation caches: few, because runs come sorted by seed."""


@dataclass(frozen=True, eq=False)
class Records:
    """The records of one seed.

    Parameters
    ----------
    table
        All records, without the excluded columns.
    groups
        The group of every record.
    held
        The row numbers of each client, in the order of the plan's clients.
    test
        The row numbers held out.
    validation
        The row numbers that are declared public: no client holds them and no seed tests on them.
    """

    table: Table
    groups: Attribute
    held: tuple[NDArray[np.int64], ...]
    test: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Federation:
    """Everything about a scenario's data that does not depend on the seed, resolved once.

    Parameters
    ----------
    data, split, partition
        The sections of the scenario.
    source
        The declaration of the data, with its checksum.
    table
        All records, without the excluded columns; its arrays are read-only.
    groups
        The group of every record.
    layout
        The clients, and the share of each stratum that each is expected to hold.
    """

    data: Data
    split: Split
    partition: Partition
    source: Source
    table: Table
    groups: Attribute
    layout: partitions.Layout
    _seeds: OrderedDict[int, Records] = field(default_factory=OrderedDict, repr=False)

    @staticmethod
    def resolve(
        data: Data,
        split: Split,
        partition: Partition,
        *,
        source: Source | None = None,
        like: Federation | None = None,
    ) -> Federation:
        """Load the table, fetching it the first time, and plan its partition.

        Parameters
        ----------
        data, split, partition
            The sections of the scenario.
        source
            The declaration of ``data``, if the caller has it already.
        like
            Another federation; if it has the same records, its table is shared instead of loaded again.

        Raises
        ------
        ScenarioError
            If the records cannot be loaded, split or partitioned.
        """
        source = source_of(data) if source is None else source
        if like is not None and like.data == data and source.is_same(like.source):
            source, table, groups = like.source, like.table, like.groups
            if (like.split, like.partition) == (split, partition):
                return like
        else:
            table = load_table(source).without(data.exclude)
            groups = table.groups(data.groups).merged(data.floor)
        layout = partitions.layout(table, groups, partition, split)
        return Federation(data, split, partition, source, table, groups, layout)

    @staticmethod
    def of(run: Run, like: Federation | None = None) -> Federation:
        """Return the federation of a run, which is ``like`` itself if that fits.

        Raises
        ------
        ScenarioError
            If the records cannot be loaded, or are not the ones that the run was planned with.
        """
        if like is not None and like.fits(run):
            return like
        found = Federation.resolve(run.data, run.split, run.partition)
        if found.source.checksum != run.checksum:
            raise ScenarioError(
                f"data {found.source.name!r}: not the records that were planned with (checksum "
                f"{run.checksum[:12]}, here {found.source.checksum[:12]}); run the command again"
            )
        return found

    def fits(self, run: Run) -> bool:
        """Return whether a run belongs to this federation."""
        mine = (self.data, self.split, self.partition, self.source.checksum)
        return mine == (run.data, run.split, run.partition, run.checksum)

    @property
    def size(self) -> int:
        """The number of records: those of the table, and those that clients declare to hold of their own."""
        return len(self.table) + sum(holder.size for holder in self.partition.holders)

    def records(self, seed: int) -> Records:
        """Return the rows of every client and the rows held out under a seed; the last seeds are cached.

        If clients hold records of their own, the whole table is held out, and no client holds a row of it.
        """
        if self.partition.kind == "declared":
            none = np.empty(0, dtype=np.int64)
            test = np.arange(len(self.table), dtype=np.int64)
            return Records(self.table, self.groups, tuple(none for _ in self.layout.clients), test, none)
        if seed in self._seeds:
            self._seeds.move_to_end(seed)
            return self._seeds[seed]
        kind, folds, share = self.split.kind, self.split.folds, self.split.validation
        train, test = splits.split(self.table, self.groups, kind, folds, seed, share)
        public = splits.public(self.table, self.groups, kind, share)
        held = partitions.deal(self.layout, self.groups, self.partition, train, seed)
        self._seeds[seed] = found = Records(self.table, self.groups, held, test, public)
        while len(self._seeds) > SEEDS_CACHED:
            self._seeds.popitem(last=False)
        return found

    def owners(self, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Return the position of the client that each of some held-out rows is dealt to.

        See :func:`fedtoll.scenarios.partition.owners`.
        """
        return partitions.owners(self.layout, self.partition, rows, seed)

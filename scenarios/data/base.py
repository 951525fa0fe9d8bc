"""The class of which your own data source is a subclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class DataSource:
    """A source of records in a file or package of your own: a few declarations, and one method.

    The declarations are attributes of the class: the keys of ``[data.own]``, with the same values as in a
    scenario file. ``label``, ``positive`` and ``negative`` (or ``classes``), ``columns`` and ``attributes``
    are required; ``missing``, ``blank``, ``title``, ``licence`` and ``citation`` are not. Without a ``title``
    it is the first line of the docstring. See :class:`fedtoll.scenarios.data.config.TableFacts`.

    The class is created without arguments. Everything that is declared must be known without looking at the
    records, because no ε covers it.

    Attributes
    ----------
    public
        Whether the records are public. If not, which is the default, a results folder on them is treated like
        one on your own file: an exported copy has neither measures nor the checksum of the records.

    Examples
    --------
    >>> import pandas as pd
    >>> class Coins(DataSource):
    ...     label, positive, negative = "side", "head", ["tail"]
    ...     columns = {"weight": {"low": 0, "high": 10}}
    ...     attributes = {"metal": {"values": ["gold", "iron"]}}
    ...
    ...     def table(self):
    ...         return pd.DataFrame({"side": ["head"], "weight": [7.5], "metal": ["iron"]})
    >>> len(Coins().table())
    1
    """

    public: bool = False

    def table(self) -> pd.DataFrame:
        """Return all records, one row per person; every process that needs them calls this at least once.

        Columns that are not declared are ignored. Values are checked against the declarations, as those of a
        user's own file are, and numbers beyond ``low`` and ``high`` are clipped.

        The same records in the same order must be returned at every call, in any process: their fingerprint
        is part of every run's hash. Draws need a fixed seed; a download should be stored and read again.
        """
        raise NotImplementedError

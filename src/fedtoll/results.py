"""Results as Python and notebooks see them: tidy frames, a headline, charts and the report."""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.visible import visible
from fedtoll.server import results as stored

if TYPE_CHECKING:
    from fedtoll.report import Digest


@dataclass(frozen=True, eq=False, repr=False)
class Results(stored.Results):
    """A results folder in memory: tidy frames over all its runs, and what the report says about them.

    Every frame begins with the columns ``strategy``, ``mechanism`` (``none``, ``clip-only`` or
    ``dp-sgd``), ``epsilon`` (infinity for the first two) and ``seed``. A notebook shows the headline and its
    chart. The parameters are those of :class:`fedtoll.server.results.Results`.
    """

    @cached_property
    def digest(self) -> Digest:
        """Everything that the report derives from the frames."""
        from fedtoll.report import Digest

        return Digest(self)

    @property
    def headline(self) -> str:
        """Who pays most and least at the tightest ε, what other strategies change, and how sure that is."""
        from fedtoll.report import headline

        with stored.readable(self.folder):
            return visible(headline(self.digest))

    @property
    def plot(self) -> Plots:
        """The charts of the report: ``results.plot.toll()`` and others."""
        return Plots(self)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report and its figures, and return the path of the page.

        Parameters
        ----------
        out
            The folder to write into, by default the results folder. ``recipe`` and ``probe`` need one: their
            report would replace that of the whole folder.

        Raises
        ------
        ScenarioError
            If the folder cannot be written, or must be named.
        RunError
            If writing fails later, e.g. because the disk is full.
        """
        from fedtoll.commands.report import write_page

        if self.part and out is None:
            raise ScenarioError(
                f"report(): the report of the {self.part} would replace that of {self.folder}; name another "
                "folder, e.g. report('other')"
            )
        with stored.readable(self.folder):
            return write_page(self.digest, None if out is None else Path(out))

    def _repr_html_(self) -> str:
        """Return the headline and its chart, as a notebook shows them."""
        from fedtoll.report.headline import sentences

        with stored.readable(self.folder):
            first, *others = (escape(visible(sentence)) for sentence in sentences(self.digest))
            chart = self.plot.toll()._repr_html_() if len(self.digest.tight) else ""
        facts = escape(repr(self))
        return f"<p><strong>{first}</strong> {' '.join(others)}</p>{chart}<p><small>{facts}</small></p>"

    def __dir__(self) -> list[str]:
        return _public(super().__dir__())


def _public(names: Any) -> list[str]:
    return sorted(name for name in names if not name.startswith("_"))


@dataclass(frozen=True)
class Plots:
    """The charts of a report; each method returns a :class:`Figure`.

    Parameters
    ----------
    results
        The results to draw.
    """

    results: Results

    def toll(self) -> Figure:
        """Return who pays at the tightest ε under FedAvg, or else the first strategy, with intervals."""
        charts = self._charts
        title = visible(f"{charts.digest.leader}, ε = {charts.digest.epsilon_text}")
        return self._figure(charts.who_pays and charts.who_pays | {"title": title}, "toll")

    def others(self) -> Figure:
        """Return the tolls under the other strategies."""
        return self._figure(self._charts.others, "others")

    def split(self) -> Figure:
        """Return the tolls split into clipping and noise; needs ``"clip-only"`` among the ε."""
        return self._figure(self._charts.split, "split")

    def utility(self, measure: str = "log_loss") -> Figure:
        """Return every group's utility at each ε, in ``log_loss``, ``tpr`` or ``accuracy``."""
        drawn = self._charts.utility
        if not isinstance(measure, str) or measure not in drawn:
            raise ScenarioError(f"plot.utility({measure!r}): not drawn{nearest(str(measure), drawn)}")
        return self._figure(drawn[measure], "utility")

    def pareto(self) -> Figure:
        """Return fairness against utility."""
        return self._figure(self._charts.front, "pareto")

    def weights(self) -> Figure:
        """Return each group's share of the weight by round."""
        return self._figure(self._charts.weights, "weights")

    def noise(self) -> Figure:
        """Return the effective noise by round."""
        return self._figure(self._charts.noise, "noise")

    @cached_property
    def _charts(self) -> Any:
        from fedtoll.report.charts import Charts

        return Charts(self.results.digest)

    @staticmethod
    def _figure(spec: Any, name: str) -> Figure:
        if not spec:
            raise ScenarioError(f"plot.{name}(): these results have nothing to draw it from")
        return Figure(spec)

    def __dir__(self) -> list[str]:
        return _public(super().__dir__())


@dataclass(frozen=True, repr=False)
class Figure:
    """A chart, which a notebook shows and :meth:`save` writes.

    Parameters
    ----------
    spec
        Its Vega-Lite specification, with the data.
    """

    spec: dict[str, Any]

    @cached_property
    def _drawn(self) -> tuple[str, bytes]:
        from fedtoll.report import vega
        from fedtoll.report.charts import stacked

        return vega.draw(stacked([self.spec])).result()

    @property
    def svg(self) -> str:
        """The chart as SVG."""
        return self._drawn[0]

    @property
    def png(self) -> bytes:
        """The chart as PNG, with two pixels per point."""
        return self._drawn[1]

    def save(self, path: str | Path) -> Path:
        """Write the chart as ``.svg``, ``.png`` or ``.pdf``, and return the path.

        Raises
        ------
        ScenarioError
            If the suffix is another one, or the file cannot be written.
        """
        file = Path(path)
        if file.suffix not in {".svg", ".png", ".pdf"}:
            raise ScenarioError(f"{path}: must end in .svg, .png or .pdf")
        try:
            if file.suffix == ".pdf":
                from fedtoll.report import vega

                write_bytes(file, vega.pdf(self.svg).result())
            else:
                write_bytes(file, self.png if file.suffix == ".png" else self.svg.encode())
        except OSError as error:
            raise ScenarioError(f"{path}: cannot be written: {error.strerror or error}") from None
        return file

    def __repr__(self) -> str:
        return "<Figure: a notebook shows it; .save('figure.svg') writes it>"

    def _repr_html_(self) -> str:
        """Return the chart as an image, in which no script can run."""
        encoded = base64.b64encode(self.svg.encode()).decode()
        return f'<img alt="chart" style="max-width: 100%" src="data:image/svg+xml;base64,{encoded}">'


def load(folder: str | Path) -> Results:
    """Read a results folder.

    Parameters
    ----------
    folder
        What ``fedtoll run`` or :func:`fedtoll.run` wrote, e.g. ``results/adult-race``.

    Raises
    ------
    ScenarioError
        If the folder has no results of fedtoll, or no run is finished.
    """
    found = stored.load(folder)
    return Results(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

"""What there is, by name: the words of ``fedtoll list`` and ``fedtoll describe``."""

from __future__ import annotations

from collections.abc import Callable


def _scenarios() -> dict[str, str]:
    from fedtoll.scenarios.scenario import library, read

    return {name: read(name).title for name in library()}


def _strategies() -> dict[str, str]:
    from fedtoll.strategies import registry

    return {
        name: ((registry.load(path).__doc__ or path).strip().splitlines() or [path])[0]
        for name, path in registry.names().items()
    }


def _data() -> dict[str, str]:
    from fedtoll.scenarios.data import SOURCES

    return {name: f"{source.title}, {source.rows:,} records" for name, source in SOURCES.items()}


def _measures() -> dict[str, str]:
    from fedtoll.server.toll import MEASURES

    return {m.name: m.title for m in MEASURES.values()}


def _describe_scenario(name: str) -> str:
    from fedtoll.scenarios.scenario import read

    s = read(name)
    lines = [
        s.title,
        "",
        s.description.strip(),
        "",
        f"data        {s.data.source}, groups by {' x '.join(s.data.groups)}"
        + (f", without {', '.join(s.data.exclude)} among the features" if s.data.exclude else ""),
        f"model       {s.model.kind}, {s.training.rounds} rounds",
        f"ε           {', '.join(str(e) for e in s.privacy.epsilons)} (δ = {s.privacy.delta:g})",
        f"strategies  {', '.join(x.label for x in s.strategies)}",
        f"seeds       {', '.join(str(x) for x in s.seeds)}",
        "",
        f"fedtoll describe {name} --toml prints the file; fedtoll run {name} runs it.",
    ]
    return "\n".join(lines)


def _describe_strategy(name: str) -> str:
    import inspect

    from fedtoll.strategies import registry

    cls = registry.load(registry.names()[name])
    stated = ", ".join(
        k if v is inspect.Parameter.empty else f"{k} = {v!r}" for k, v in registry.parameters(cls).items()
    )
    return f"{name}: {inspect.getdoc(cls)}\n\nParameters: {stated or 'none'}"


def _describe_data(name: str) -> str:
    from fedtoll.scenarios.data import source

    s = source(name)
    lines = [f"{s.title}: {s.rows:,} records", f"label       {s.label} = {s.positive}", ""]
    for attribute, names in s.attributes.items():
        counts = s.counts.get(attribute, {})
        lines += [f"{attribute}", *(f"  {g:<24}{counts.get(g, 0):>8,}" for g in names)]
    lines += [
        "",
        f"licence     {s.licence}",
        f"citation    {s.citation}",
        "",
        *(f"Trap: {t}" for t in s.traps),
    ]
    return "\n".join(lines)


def _describe_measure(name: str) -> str:
    from fedtoll.server.toll import MEASURES

    measure = MEASURES[name]
    direction = "higher" if measure.higher_is_better else "lower"
    return f"{name}: {measure.title}{f' in {measure.unit}' if measure.unit else ''}; {direction} is better"


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "scenarios": _scenarios,
    "strategies": _strategies,
    "data": _data,
    "measures": _measures,
}
DESCRIBE: dict[str, Callable[[str], str]] = {
    "scenarios": _describe_scenario,
    "strategies": _describe_strategy,
    "data": _describe_data,
    "measures": _describe_measure,
}

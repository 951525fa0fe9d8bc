"""What there is, by name: the words of ``fedtoll list`` and ``fedtoll describe``."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def _scenarios() -> dict[str, str]:
    from fedtoll.scenarios.scenario import library, read

    return {name: read(name).title for name in library()}


def _findings() -> dict[str, str]:
    from fedtoll.scenarios.scenario import findings, read

    return {name: read(name).title for name in findings()}


def _strategies() -> dict[str, str]:
    from fedtoll.scenarios.errors import ScenarioError
    from fedtoll.strategies import registry

    told = {}
    for name in registry.names():
        try:
            path, _ = registry.resolve(name)
            told[name] = ((registry.load(path).__doc__ or path).strip().splitlines() or [path])[0]
        except ScenarioError as error:
            told[name] = f"cannot be loaded: {str(error).removeprefix('strategies: ')}"
    return told


def _data() -> dict[str, str]:
    from fedtoll.scenarios.data import SOURCES

    told = {
        name: source.title + (f", {source.rows:,} records" if source.rows else "")
        for name, source in SOURCES.items()
    }
    return {**told, "synthetic": "Made-up groups, as [data.synthetic] of a scenario describes them"}


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
        f"data        {s.data.source or s.data.file}, groups by {' x '.join(s.data.groups)}"
        + (f", without {', '.join(s.data.exclude)} among the features" if s.data.exclude else ""),
        f"model       {s.model.kind}, {s.training.rounds} rounds",
        f"ε           {', '.join(str(e) for e in s.privacy.epsilons)} (δ = {s.privacy.delta:g})",
        f"strategies  {', '.join(x.label for x in s.strategies)}",
        f"seeds       {', '.join(str(x) for x in s.seeds)}",
        "",
        f"fedtoll describe {name} --toml prints the file; fedtoll run {name} runs it.",
    ]
    return "\n".join(lines)


def _describe_finding(name: str) -> str:
    from fedtoll.scenarios.claims import BASE
    from fedtoll.scenarios.scenario import read

    s = read(name)
    told = [_describe_scenario(name), ""]
    if s.source is not None:
        told += [f"source      {s.source.paper}", f"differs     {s.source.differs}"]
    told += [f"setting     {BASE}: the scenario itself"]
    told += [f"            {setting.name}: {setting.title}" for setting in s.setting]
    told += [
        "",
        *(f"Claim: {c.says}{f' (published: {c.published})' if c.published else ''}." for c in s.claim),
    ]
    told += ["", f"fedtoll findings {name} checks the claims."]
    return "\n".join(told)


def _describe_strategy(name: str) -> str:
    import inspect

    from fedtoll.strategies import registry

    cls = registry.load(registry.resolve(name)[0])
    stated = ", ".join(
        k if v is inspect.Parameter.empty else f"{k} = {v!r}" for k, v in registry.parameters(cls).items()
    )
    return f"{name}: {inspect.getdoc(cls)}\n\nParameters: {stated or 'none'}"


def _describe_data(name: str) -> str:
    from fedtoll.scenarios.data import declared_or_cached, source

    if name == "synthetic":
        import inspect

        from fedtoll.scenarios.data.section import Synthetic, SyntheticGroup

        return "\n\n".join(f"{inspect.getdoc(part)}" for part in (Synthetic, SyntheticGroup))
    s = source(name)
    table = declared_or_cached(s)
    rows = s.rows or (0 if table is None else len(table))
    lines = [s.title + (f": {rows:,} records" if rows else ""), f"label       {s.label} = {s.positive}"]
    if table is not None:
        lines.append(f"features    {table.features.shape[1]}, of {len(s.columns)} columns")
    for attribute, names in s.attributes.items():
        lines += ["", f"{attribute:<28}{'n':>8}" + ("  positive" if table is not None else "")]
        for code, group in enumerate(names):
            n, rate = s.counts[attribute][group], ""
            if table is not None and not s.rows:  # not declared, so counted
                n = int(table.attributes[attribute].counts[code])
            if table is not None and len(table.classes) == 2 and n:
                share = float(table.label[table.attributes[attribute].codes == code].mean())
                rate = f"{share:>10.1%}  {'█' * round(40 * share) or '▏'}"
            lines.append(f"  {group:<26}{f'{n:,}' if rows else '–':>8}{rate}")
    if table is None:
        lines += ["", f"fedtoll data fetch {name} fetches the records; then base rates are shown here."]
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


def names(kind: str) -> Iterable[str]:
    """Return the names of a kind, without loading what they name."""
    if kind == "scenarios":
        from fedtoll.scenarios.scenario import library

        return library()
    if kind == "findings":
        from fedtoll.scenarios.scenario import findings

        return findings()
    if kind == "strategies":
        from fedtoll.strategies import registry

        return registry.names()
    return KINDS[kind]()


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "scenarios": _scenarios,
    "findings": _findings,
    "strategies": _strategies,
    "data": _data,
    "measures": _measures,
}
DESCRIBE: dict[str, Callable[[str], str]] = {
    "scenarios": _describe_scenario,
    "findings": _describe_finding,
    "strategies": _describe_strategy,
    "data": _describe_data,
    "measures": _describe_measure,
}

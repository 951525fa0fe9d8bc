"""``fedtoll list`` and ``fedtoll describe``: everything that has a name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from fedtoll.options import Json
from fedtoll.scenarios.errors import ScenarioError, nearest


def list_(
    kind: Annotated[str, typer.Argument(metavar="scenarios|findings|strategies|data|measures")],
    as_json: Json = False,
) -> None:
    """List what there is, by name."""
    if kind not in KINDS:
        raise ScenarioError(f"list {kind!r}: unknown kind{nearest(kind, KINDS)}")
    entries = KINDS[kind]()
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    width = max(len(name) for name in entries)
    for name, text in entries.items():
        typer.echo(f"{name:<{width}}  {text}")


def describe(
    name: Annotated[str, typer.Argument(help="a scenario, finding, strategy, data source or measure")],
    toml: Annotated[bool, typer.Option("--toml", help="print a scenario's file, to copy")] = False,
) -> None:
    """Describe one thing by its name."""
    from fedtoll.scenarios import read as scenarios

    if toml:
        files = {**scenarios.library(), **scenarios.findings()}
        if name not in files:
            raise ScenarioError(f"{name}: no built-in scenario of this name{nearest(name, files)}")
        typer.echo(files[name].read_text(encoding="utf-8"), nl=False)
        return
    known = {entry: kind for kind in KINDS for entry in names(kind)}
    if name not in known:
        raise ScenarioError(f"describe {name!r}: nothing has this name{nearest(name, known)}")
    typer.echo(DESCRIBE[known[name]](name))


def _scenarios() -> dict[str, str]:
    from fedtoll.scenarios.read import library, read

    return {name: read(name).title for name in library()}


def _findings() -> dict[str, str]:
    from fedtoll.scenarios.read import findings, read

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
        name: builtin.title + (f", {builtin.rows:,} records" if builtin.rows else "")
        for name, builtin in SOURCES.items()
    }
    return {**told, "synthetic": "Made-up groups, as [data.synthetic] of a scenario describes them"}


def _measures() -> dict[str, str]:
    from fedtoll.scenarios.measures import MEASURES

    return {m.name: m.title for m in MEASURES.values()}


def _describe_scenario(name: str) -> str:
    from fedtoll.scenarios.read import read

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
    from fedtoll.scenarios.read import read

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
    from fedtoll.scenarios.data import builtin, cached_table

    if name == "synthetic":
        import inspect

        from fedtoll.scenarios.data.config import Synthetic, SyntheticGroup

        return "\n\n".join(f"{inspect.getdoc(part)}" for part in (Synthetic, SyntheticGroup))
    s = builtin(name)
    table = cached_table(s)
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
    from fedtoll.scenarios.measures import MEASURES

    measure = MEASURES[name]
    direction = "higher" if measure.higher_is_better else "lower"
    return f"{name}: {measure.title}{f' in {measure.unit}' if measure.unit else ''}; {direction} is better"


def names(kind: str) -> Iterable[str]:
    """Return the names of a kind, without loading what they name."""
    if kind == "scenarios":
        from fedtoll.scenarios.read import library

        return library()
    if kind == "findings":
        from fedtoll.scenarios.read import findings

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

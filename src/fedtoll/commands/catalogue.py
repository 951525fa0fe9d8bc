"""``fedtoll list`` and ``fedtoll describe``: what has a name, from scenarios to measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import Field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtoll.console import echo
from fedtoll.options import Json
from fedtoll.scenarios.errors import ScenarioError, nearest

if TYPE_CHECKING:
    from fedtoll.scenarios.plugins import Registry


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="One of scenarios, findings, strategies, mechanisms, personal-models, data and measures.",
            show_default="all of them",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List scenarios, findings, strategies, mechanisms, personal models, data or measures."""
    if kind is None:
        all_kinds = {name: entries() for name, entries in KINDS.items()}
        if as_json:
            echo(json.dumps(all_kinds, ensure_ascii=False, indent=1))
            return
        for name, entries in all_kinds.items():
            echo(f"{name} ({len(entries)})")
            _print(entries, "  ")
            echo()
        echo("fedtoll describe NAME tells more about each")
        return
    if kind not in KINDS:
        raise ScenarioError(f"list {kind!r}: unknown kind{nearest(kind, KINDS)}")
    entries = KINDS[kind]()
    if as_json:
        echo(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    _print(entries)


def _print(entries: dict[str, str], indent: str = "") -> None:
    width = max(len(name) for name in entries)
    for name, text in entries.items():
        echo(f"{indent}{name:<{width}}  {text}")


def describe(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A name that `fedtoll list` prints, or a scenario file."),
    ],
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the scenario's TOML file, to start your own.")
    ] = False,
) -> None:
    """Describe a scenario, strategy, mechanism, personal model, data source or measure."""
    from fedtoll.scenarios import read as scenarios

    if toml:
        files = {**scenarios.library(), **scenarios.findings()}
        if name.endswith((".toml", ".json")):
            files[name] = scenarios.find(name)
        if name not in files:
            raise ScenarioError(f"{name}: no built-in scenario has this name{nearest(name, files)}")
        echo(files[name].read_text(encoding="utf-8-sig"), end="")
        return
    if name.endswith((".toml", ".json")):
        scenario = scenarios.read(name)
        echo(_describe_finding(name) if scenario.claim else _describe_scenario(name))
        return
    known = {entry: kind for kind in KINDS for entry in names(kind)}
    if name not in known:
        near = nearest(name, known)
        hint = near if "did you mean" in near else "; fedtoll list shows all names"
        raise ScenarioError(f"describe {name!r}: nothing has this name{hint}")
    echo(DESCRIBE[known[name]](name))


def _scenarios() -> dict[str, str]:
    from fedtoll.scenarios.read import library, read

    return {name: read(name).title for name in library()}


def _findings() -> dict[str, str]:
    from fedtoll.scenarios.read import findings, read

    return {name: read(name).title for name in findings()}


def _strategies() -> dict[str, str]:
    from fedtoll.scenarios.errors import ScenarioError
    from fedtoll.strategies import registry

    titles = {}
    for name in registry.names():
        try:
            path, _ = registry.resolve(name)
            titles[name] = ((registry.load(path).__doc__ or path).strip().splitlines() or [path])[0]
        except ScenarioError as error:
            titles[name] = f"cannot be loaded: {str(error).removeprefix('strategies: ')}"
    return titles


def _mechanisms() -> dict[str, str]:
    from fedtoll.clients.clipping import registry

    return {name: _mechanism(name).strip().splitlines()[0] for name in registry.names()}


def _mechanism(name: str) -> str:
    from fedtoll.clients.clipping.registry import REGISTRY
    from fedtoll.scenarios.client import PLAIN

    if name == PLAIN:
        return "Plain DP-SGD: every gradient is clipped to training.clip."
    return _docstring(REGISTRY, name)


def _describe_mechanism(name: str) -> str:
    from fedtoll.clients.clipping.registry import REGISTRY
    from fedtoll.scenarios.client import PLAIN

    stated = "" if name == PLAIN else _parameters(REGISTRY, name)
    return f"{name}: {_mechanism(name)}\n\nParameters: {stated or 'none'}"


def _personal_models() -> dict[str, str]:
    from fedtoll.clients.personal_models.registry import REGISTRY

    return {name: _docstring(REGISTRY, name).strip().splitlines()[0] for name in REGISTRY.names()}


def _describe_personal_model(name: str) -> str:
    from fedtoll.clients.personal_models.registry import REGISTRY

    return f"{name}: {_docstring(REGISTRY, name)}\n\nParameters: {_parameters(REGISTRY, name) or 'none'}"


def _docstring(registry: Registry, name: str) -> str:
    """Return what a class of a registry says of itself, or why it cannot be loaded."""
    import inspect

    try:
        path = registry.resolve(name)[0]
        return inspect.getdoc(registry.load(path)) or path
    except ScenarioError as error:
        return f"cannot be loaded: {str(error).removeprefix(f'{registry.key}: ')}"


def _parameters(registry: Registry, name: str) -> str:
    from dataclasses import fields

    return _fields(fields(registry.load(registry.resolve(name)[0])))


def _fields(stated: Iterable[Field[Any]]) -> str:
    """Return the parameters of a dataclass, with their defaults."""
    from dataclasses import MISSING

    return ", ".join(f.name if f.default is MISSING else f"{f.name} = {f.default!r}" for f in stated)


def _data() -> dict[str, str]:
    return {name: _source(name) for name in names("data")}


def _source(name: str) -> str:
    """Return the title of a data source, or why it cannot be loaded."""
    from fedtoll.scenarios.data import named

    if name == "synthetic":
        return "Synthetic groups, described by [data.synthetic] of a scenario"
    try:
        source = named(name)
    except ScenarioError as error:
        return f"cannot be loaded: {str(error).removeprefix('data.source: ')}"
    return source.title + (f", {source.rows:,} records" if source.rows else "")


def _measures() -> dict[str, str]:
    from fedtoll.scenarios.measures import MEASURES

    return {m.name: m.title for m in MEASURES.values()}


def _describe_scenario(name: str) -> str:
    from fedtoll.scenarios.read import read

    scenario = read(name)
    data, privacy = scenario.data, scenario.privacy
    without = f", without {', '.join(data.exclude)} among the features" if data.exclude else ""
    lines = [
        scenario.title,
        "",
        scenario.description.strip(),
        "",
        f"data        {data.source or data.file}, groups by {' x '.join(data.groups)}{without}",
        f"model       {scenario.model.kind}, {scenario.training.rounds} rounds",
        *([f"own models  {scenario.personal.label}"] if scenario.personal else []),
        f"ε           {', '.join(map(str, privacy.epsilons))} (δ = {privacy.delta:g})",
        f"strategies  {', '.join(strategy.label for strategy in scenario.strategies)}",
        f"seeds       {', '.join(map(str, scenario.seeds))}",
        "",
        f"fedtoll describe {name} --toml prints the file; fedtoll run {name} runs it.",
    ]
    return "\n".join(lines)


def _describe_finding(name: str) -> str:
    from fedtoll.scenarios.claims import BASE
    from fedtoll.scenarios.read import read

    scenario = read(name)
    lines = [_describe_scenario(name), ""]
    if scenario.source is not None:
        lines += [f"source      {scenario.source.paper}", f"differs     {scenario.source.differs}"]
    lines += [f"setting     {BASE}: the scenario itself"]
    lines += [f"            {setting.name}: {setting.title}" for setting in scenario.setting]
    lines += [
        "",
        *(f"Claim: {c.says}{f' (published: {c.published})' if c.published else ''}." for c in scenario.claim),
    ]
    lines += ["", f"fedtoll findings {name} checks the claims."]
    return "\n".join(lines)


def _describe_strategy(name: str) -> str:
    import inspect

    from fedtoll.strategies import registry

    cls = registry.load(registry.resolve(name)[0])
    parameters = ", ".join(
        k if v is inspect.Parameter.empty else f"{k} = {v!r}" for k, v in registry.parameters(cls).items()
    )
    return f"{name}: {inspect.getdoc(cls)}\n\nParameters: {parameters or 'none'}"


def _describe_data(name: str) -> str:
    from fedtoll.scenarios.data import SOURCES, cached_table, named

    if name == "synthetic":
        import inspect

        from fedtoll.scenarios.data.config import Synthetic, SyntheticGroup

        return "\n\n".join(f"{inspect.getdoc(part)}" for part in (Synthetic, SyntheticGroup))
    source, own = named(name), name not in SOURCES
    table = None if own else cached_table(source)  # what a plug-in does to return its records may take long
    rows = source.rows or (0 if table is None else len(table))
    lines = [
        source.title + (f": {rows:,} records" if rows else ""),
        f"label       {source.label} = {source.positive}",
    ]
    if table is not None:
        lines.append(f"features    {table.features.shape[1]}, of {len(source.columns)} columns")
    for attribute, names in source.attributes.items():
        lines += ["", f"{attribute:<28}{'n':>8}" + ("  positive" if table is not None else "")]
        for code, group in enumerate(names):
            n, rate = source.counts[attribute][group], ""
            if table is not None and not source.rows:  # nothing declared: count the cached records
                n = int(table.attributes[attribute].counts[code])
            if table is not None and len(table.classes) == 2 and n:
                share = float(table.label[table.attributes[attribute].codes == code].mean())
                rate = f"{share:>10.1%}  {'█' * round(40 * share) or '▏'}"
            lines.append(f"  {group:<26}{f'{n:,}' if rows else '–':>8}{rate}")
    if own:
        records = "public" if source.public else "private: an exported results folder has no measures of them"
        lines += ["", f"fedtoll data check {name} counts the records.", "", f"records     {records}"]
    elif table is None:
        lines += ["", f"fedtoll data fetch {name} fetches the records; base rates are shown afterwards."]
    lines += [
        "",
        f"licence     {source.licence}",
        f"citation    {source.citation}",
        "",
        *(f"Trap: {trap}" for trap in source.traps),
    ]
    return "\n".join(lines)


def _describe_measure(name: str) -> str:
    from fedtoll.scenarios.measures import MEASURES

    measure = MEASURES[name]
    direction = "higher" if measure.higher_is_better else "lower"
    return f"{name}: {measure.title}{f' in {measure.unit}' if measure.unit else ''}; {direction} is better"


def names(kind: str) -> Iterable[str]:
    """Return the names of one kind without loading the objects."""
    if kind == "scenarios":
        from fedtoll.scenarios.read import library

        return library()
    if kind == "findings":
        from fedtoll.scenarios.read import findings

        return findings()
    if kind == "strategies":
        from fedtoll.strategies import registry

        return registry.names()
    if kind == "mechanisms":
        from fedtoll.clients.clipping import registry as clipping

        return clipping.names()
    if kind == "data":
        from fedtoll.scenarios.data import SOURCES, plugin

        return dict.fromkeys([*SOURCES, "synthetic", *plugin.names()])
    if kind == "personal-models":
        from fedtoll.clients.personal_models.registry import REGISTRY

        return REGISTRY.names()
    return KINDS[kind]()


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "scenarios": _scenarios,
    "findings": _findings,
    "strategies": _strategies,
    "mechanisms": _mechanisms,
    "personal-models": _personal_models,
    "data": _data,
    "measures": _measures,
}
DESCRIBE: dict[str, Callable[[str], str]] = {
    "scenarios": _describe_scenario,
    "findings": _describe_finding,
    "strategies": _describe_strategy,
    "mechanisms": _describe_mechanism,
    "personal-models": _describe_personal_model,
    "data": _describe_data,
    "measures": _describe_measure,
}

"""What people try on the command line that is called something else here, and one line for click's errors."""

from __future__ import annotations

import re
from typing import Any

from fedtoll.scenarios.errors import nearest

OPTIONS = {
    "--epsilon": "--set 'privacy.epsilons=[\"inf\", 1]'",
    "--epsilons": "--set 'privacy.epsilons=[\"inf\", 1]'",
    "--delta": "--set privacy.delta=1e-6",
    "--rounds": "--set training.rounds=10",
    "--lr": "--set training.learning_rate=0.5",
    "--learning-rate": "--set training.learning_rate=0.5",
    "--clip": "--set training.clip=1.0",
    "--batch-size": "--set training.batch_size=64 in a scenario without sampling_rate",
    "--clients": "--set partition.clients.GROUP=2",
    "--model": "--set 'model.kind=\"mlp\"' --set 'model.hidden=[32]'",
    "--strategy": "--set 'strategies=[{name=\"fedavg\"}]'",
    "--strategies": "--set 'strategies=[{name=\"fedavg\"}]'",
    "--seed": "--seeds 0:1",
    "--output": "--out DIR",
    "--output-dir": "--out DIR",
    "--jobs": "--workers 2",
    "-j": "--workers 2",
    "--resume": "nothing: the same command resumes",
    "--gpu": "--set 'training.device=\"cuda\"'",
    "--device": "--set 'training.device=\"cuda\"'",
}
"""What says the same as an option that fedtoll does not have."""

COMMANDS = {
    "train": "run",
    "sweep": "run",
    "resume": "run",
    "start": "run",
    "show": "describe",
    "info": "describe",
    "ls": "list",
    "validate": "check",
    "plot": "report",
    "diff": "compare",
    "progress": "status",
    "init": "new-scenario",
    "help": "--help",
    "version": "--version",
}
"""What fedtoll calls a command that has another name elsewhere."""


def usage(error: Any) -> str:
    """Return click's error in one line, with at most one suggestion.

    Parameters
    ----------
    error
        A ``click.ClickException``.
    """
    import click

    command = getattr(getattr(error, "ctx", None), "command", None)
    if isinstance(error, click.NoSuchOption):
        option = error.option_name
        known = [o for p in getattr(command, "params", ()) for o in p.opts if o.startswith("--")]
        if option in OPTIONS and option not in known:
            return f"no option {option}; did you mean {OPTIONS[option]}?"
        return f"no option {option}{_near(option, known)}"
    message = str(error.format_message() or "see --help")
    if unknown := re.match(r"No such command '(.*?)'", message):
        names = getattr(command, "commands", {})
        word = unknown[1]
        if COMMANDS.get(word, "-") in {*names, "--help", "--version"}:
            return f"no command {word!r}; did you mean {COMMANDS[word]!r}?"
        return f"no command {word!r}{nearest(word, names)}"
    return message


def _near(option: str, known: list[str]) -> str:
    """Return the option that was probably meant; by default, where they are listed."""
    stem = option.lstrip("-")
    suggestion = nearest(stem, [name.lstrip("-") for name in known])
    near = re.fullmatch(r"; did you mean '(.*)'\?", suggestion)
    return f"; did you mean --{near[1]}?" if near else "; --help lists the options"

"""The gate: what must hold before anybody may believe an ε of fedtoll.

A *check* is a plain function ``check(system) -> None`` that raises ``AssertionError``. It looks at what
crosses the wire: it makes runs through a scenario from raw CSV files, sends the clients the messages that a
server would send, and reads their replies. What it knows beforehand (public sizes, q, B, T, sensitivities)
it computes from the files and the scenario, not with fedtoll.

============  ==============================================================================================
file          what is checked
============  ==============================================================================================
system.py     what a check is given: an engine, a model, a number of classes; raw tables, runs, messages
replay.py     one record more or less moves a client by at most the clip, a statistic by its sensitivity
noise.py      the noise has the sd that the ledger charges, and is fresh for every seed, client, round, step
rounds.py     a round is answered to one broadcast only
sampler.py    the masks are Poisson: inclusion, variance of the batch, all pairs; read off the wire to the bit
sizes.py      q, T and B are those of the public size; a client without records releases noise
ledger.py     one ledger of R·T steps; a wire tap that finds what it lacks; retries and lost replies
============  ==============================================================================================

``mutants.py`` breaks fedtoll in many ways; ``test_mutants.py`` holds that a check fails for each on either
engine, and ``table.py`` writes docs/gate.md, the table of which check killed which mutant::

    python -m tests.gate.table

To add a check, write it in its file under ``@check``; to add a mutant, write a context manager under
``@mutant``; then write the page anew.
"""

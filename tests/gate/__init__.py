"""The gate: what must hold before anybody may believe an ε of fedtoll.

A *check* is a plain function ``check(system) -> None`` that raises ``AssertionError``. It tests what crosses
the wire: it plans runs from a scenario and raw CSV files, sends clients the messages that a server would
send, and reads their replies. What must be known in advance (public sizes, q, B, T, sensitivities) is
computed from the files and the scenario, not by fedtoll.

==============  ============================================================================================
file            what it does
==============  ============================================================================================
system.py       what a check receives (engine, model, number of classes) and how it talks to clients
tables.py       raw CSV files that differ by one record
replay.py       adding or removing a record moves a client by at most the clip, a statistic by its sensitivity
noise.py        noise has the sd that the ledger charges, and is fresh for every seed, client, round and step
rounds.py       a client answers a round for one broadcast only
sampler.py      batches are Poisson samples: inclusion rate, variance of the batch size, all correlations
sizes.py        q, T and B come from the public size; a client without records releases noise
ledger.py       one ledger of R·T steps; a wire tap that finds uncharged releases; retries and lost replies
floating_point  releases lie on a coarse grid that does not depend on records
many.py         a second system, unlike the first: 64 clients of public groups, 40 rounds, 10 to 20 steps
many_*.py       its checks: noise, records and ledger in late steps and rounds and beyond the fiftieth client
differing.py    personal budgets, and clients that take part in some rounds only
personal.py     clients that keep models of their own
calibration.py  a last release by group, by which offsets are corrected
sums.py         the server sees sums: secure aggregation with shares of one noise, and a trusted server
own_files.py    SuperNodes with a file of their own, secret noise and a limit of ε
parts.py        the systems, with the checks and mutants of each
==============  ============================================================================================

``mutants.py`` breaks the engines and ``mutants_outside_engines.py`` everything else, in many small ways;
``mutants_of_many.py`` only where the first system does not look. A single system has one number of clients
and rounds, one kind of partition, one way to state q: what is broken elsewhere passes all its checks.
``test_mutants.py`` tests that a check fails for each mutant on either engine. ``table.py`` writes
docs/gate.md, the tables of which check kills which mutant, and ``alarms.py`` counts false alarms::

    python -m tests.gate.table
    python -m tests.gate.alarms

To add a check, write a function decorated with ``@check`` in the file it belongs to; to add a mutant, write a
function decorated with ``@mutant``. A check must hold in the second system too, or have a counterpart there.
What neither system can show (another trust model, other nodes) gets a part of its own in ``parts.py``. Then
write the page again.
"""

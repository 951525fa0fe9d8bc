"""How is a whole scenario run? Constants are chosen, runs are trained, and everything is stored.

``run`` trains, stores and loads all runs of a scenario. ``tune`` chooses constants for every strategy and ε,
among ``candidates``, by their losses on records that are declared public (``validate``). ``probe`` tries
other learning rates where nothing is tuned, ``converged`` fits the best central model, ``cache`` keeps what
is trained besides runs, and ``dry_run`` previews a sweep. ``executor`` does its jobs: one after another, in
several processes (``workers``) or with Ray; ``groups`` says which runs train together. ``export`` copies what
can be shared of a folder, and ``superlink`` runs them under ``flwr run``.
"""

"""How is a whole scenario run? Constants are chosen, runs are trained, and everything is stored.

``run`` trains, stores and loads all runs of a scenario. ``tune`` chooses constants for every strategy and ε on
records that are declared public. ``cache`` keeps what is trained besides runs, and ``dry_run`` previews a sweep.
"""

"""Who runs it? Plan, Grids, the Flower app, evaluation, tables and the results folder."""

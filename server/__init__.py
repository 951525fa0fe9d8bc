"""Who runs it? Plan, sweep, workers, Grids, the Flower app, evaluation and the results folder."""

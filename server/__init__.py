"""Who runs it and writes it down: plan, executor, Flower server, evaluation, results, toll and report."""

"""What is asked? Scenarios, runs, data, partitions, measures, and the declarations of statistics."""

"""What is asked: scenarios, runs, partitions, splits, data and the declarations of private statistics."""

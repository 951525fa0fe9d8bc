"""What a client does with a model of its own: a base class, and the methods that fedtoll has."""

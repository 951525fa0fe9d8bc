"""How does a sweep use several machines? With Ray: nodes are compared, get what runs need, and may die."""

"""How are updates combined? One strategy per file; ``base`` is the interface."""

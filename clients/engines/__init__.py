"""How local training is computed: one file an engine, behind one interface."""

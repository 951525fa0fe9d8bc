"""How does a federation get onto machines of its own? By a folder of scripts, keys and files for each.

``folder`` writes it, ``certificates`` makes its keys, ``split`` divides the records of a simulated scenario.
"""

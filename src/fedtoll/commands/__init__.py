"""The command line: one file per command. ``fedtoll.cli`` gives them their names."""

"""The commands, one file each. ``fedtoll.cli`` gives them their names."""

"""The larger commands of the command line, one a file."""

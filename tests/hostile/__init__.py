"""Hostile inputs: one line and exit 2, nothing written outside the named folder, no code run unnamed.

A *trap* is a pickle, or a module, that leaves a mark in the file system if anybody loads it.
"""

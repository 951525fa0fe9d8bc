"""Hostile inputs: each ends in one line and exit code 2, writes nothing elsewhere, and runs no code.

A *trap* is a pickle, or a module, that leaves a mark in the file system if anybody loads it.
"""

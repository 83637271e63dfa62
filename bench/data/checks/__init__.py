"""Defects of a data set, one line each."""

"""Circuits of two languages or models held beside each other."""

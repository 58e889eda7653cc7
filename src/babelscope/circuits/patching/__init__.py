"""Activation and path patching, the search for a circuit of heads, and which effects count."""

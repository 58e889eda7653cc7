"""Which language a model works in between input and output: lens by language, patching, residual alignment."""

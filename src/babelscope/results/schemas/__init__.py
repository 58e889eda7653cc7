"""The tables of every kind of run: a class a table, a field a column."""

"""The pocket family: a generated parallel corpus of nine languages, and small models trained on it."""

"""The factory of the pocket family: a corpus generator in nine languages, tokenizers, and the training of the models.

It is no part of the installed package, which carries the finished weights, the held-out texts and the words. Run it
from the top of the repository: `python -m pocket_factory train bloom-s --out pocket-training`.
"""

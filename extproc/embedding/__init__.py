"""Texts as vectors, for `auto` and the cache of similar questions.

wordpiece  text -> pieces of a vocabulary
static     pieces -> a vector, by a table
limits     how much of a text is read
installed  what of it this installation has
"""

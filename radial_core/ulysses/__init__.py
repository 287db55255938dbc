"""Ulysses sequence parallelism: each card has a share of the tokens, in attention of the heads.

Between, the cards exchange what they have (Jacobs et al., arXiv 2309.14509). In attention a card
sees the whole sequence, so masks, plans and kernels need not know of it.
"""
